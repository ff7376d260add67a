"""Sockets of a port that one process has, or that several processes share.

On Linux every worker binds a socket of its own with SO_REUSEPORT, and the kernel divides the
connections. Elsewhere that option gives all connections to one socket, so the workers share one.
"""

import socket
import sys

from models.errors import InvalidSettings

CAN_DIVIDE = sys.platform == "linux"  # the kernel divides connections between sockets


def bind(host: str, port: int, *, is_divided: bool = False) -> socket.socket:
    """Bind a socket, without listening on it.

    Binding early reports a port in use as one line, and the log can name the port chosen for
    port 0. The socket starts to listen after the release is loaded; before that, connections are
    refused instead of queued. is_divided: other sockets may have the port too, with the same
    option. Raises InvalidSettings.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_divided:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise InvalidSettings(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """Bind a port for several workers; connections come only to sockets that listen.

    Raises InvalidSettings, also for a port that another service divides between its own workers:
    SO_REUSEPORT alone would join them silently.
    """
    if not CAN_DIVIDE:
        return bind(host, port)
    with bind(host, port) as alone:
        port = alone.getsockname()[1]
    return bind(host, port, is_divided=True)
