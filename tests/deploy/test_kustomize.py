"""The manifests for Kubernetes, rendered as kubectl renders them: sound, and true to the code."""

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bench.load.sizing import Assumed, read_measured, size
from offline.commands.cli import _parser
from offline.commands.exits import EX_CONFIG, EX_DATAERR
from service.auth.api_keys import read_keys
from service.settings import ENV_PREFIX, load_settings
from tests import ROOT
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import serving
from training.learn.cli import _parse as parse_learn

TREE = ROOT / "deploy" / "kustomize"
OVERLAYS = ("base", "overlays/single", "overlays/production")
KUBERNETES = "1.37"
_DRAIN_S = 10  # FAULTS: exit within that of SIGTERM
_OUTSIDE = {"think-ahead-redis", "think-ahead-keys"}  # Secrets that only some overlays bring

Manifest = dict[str, Any]


@cache
def kubectl() -> str:
    """Path of kubectl: from requirements-dev.lock, otherwise the installed one."""
    own = Path(sysconfig.get_path("scripts")) / "kubectl"
    found = str(own) if own.exists() else shutil.which("kubectl")
    assert found is not None, "kubectl: `make test` installs it"
    return found


@cache
def render(overlay: str) -> list[Manifest]:
    done = subprocess.run(
        [kubectl(), "kustomize", str(TREE / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [one for one in render(overlay) if one["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Manifest:
    (found,) = (one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name)
    return found


def pod_templates(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Name and pod template of all that runs."""
    for one in of_kind(overlay, "Deployment", "StatefulSet"):
        yield one["metadata"]["name"], one["spec"]["template"]
    for one in of_kind(overlay, "CronJob"):
        yield one["metadata"]["name"], one["spec"]["jobTemplate"]["spec"]["template"]


def containers(overlay: str) -> Iterator[Manifest]:
    for _, template in pod_templates(overlay):
        yield from template["spec"]["containers"]


def is_selected(selector: Manifest, labels: Manifest) -> bool:
    """Equality, and `In` with a list, as these manifests use them."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return wanted and all(labels.get(each["key"]) in each["values"] for each in expressions)


def selected(overlay: str, selector: Manifest) -> list[Manifest]:
    return [
        template
        for _, template in pod_templates(overlay)
        if is_selected(selector, template["metadata"]["labels"])
    ]


def port_names(template: Manifest) -> set[str]:
    found = (port for each in template["spec"]["containers"] for port in each.get("ports", []))
    return {port["name"] for port in found}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_follows_the_schema_of_kubernetes(overlay: str) -> None:
    for manifest in render(overlay):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_schema_would_notice_a_misspelt_field() -> None:
    manifest = yaml.safe_load(yaml.safe_dump(named("base", "Deployment", "think-ahead")))
    manifest["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_pod_mounts_and_reads_is_there(overlay: str) -> None:
    known = {(one["kind"], one["metadata"]["name"]) for one in render(overlay)}
    outside = set() if overlay.endswith("single") else _OUTSIDE
    for name, template in pod_templates(overlay):
        spec = template["spec"]
        claims = [
            *(volume for volume in spec.get("volumes", [])),
        ]
        for volume in claims:
            if secret := volume.get("secret"):
                secret_name = secret["secretName"]
                assert ("Secret", secret_name) in known or secret_name in outside, name
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in known, name
        for container in spec["containers"]:
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            own = {volume["name"] for volume in claims}
            own |= {"data"} if name.endswith("-redis") else set()  # a template of the StatefulSet
            assert mounts == own, name
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in known, name
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    found = ("Secret", reference["name"]) in known
                    assert found or reference["name"] in outside, name
                    key = (reference["key"], reference.get("optional", False))
                    assert key in {("url", False), ("admin-url", True)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_pods_and_ports_are_those_of_the_pods(overlay: str) -> None:
    for service in of_kind(overlay, "Service"):
        pods = selected(overlay, {"matchLabels": service["spec"]["selector"]})
        assert len(pods) == 1
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in port_names(pods[0])
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert len(selected(overlay, budget["spec"]["selector"])) == 1
    for policy in of_kind(overlay, "NetworkPolicy"):
        pods = selected(overlay, policy["spec"]["podSelector"])
        assert pods, policy["metadata"]["name"]
        for rule in policy["spec"].get("ingress", []):
            for port in rule["ports"]:
                assert all(port["port"] in port_names(pod) for pod in pods)
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert is_selected(workload["spec"]["selector"], labels)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_covered_by_a_network_policy(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    for name, template in pod_templates(overlay):
        labels = template["metadata"]["labels"]
        found = [one for one in policies if is_selected(one["spec"]["podSelector"], labels)]
        assert len(found) == 1, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_runs_as_root_writes_its_image_or_holds_a_token(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"], name


def test_the_users_of_the_images_are_those_of_the_pods() -> None:
    for file in (ROOT / "deploy").glob("Dockerfile.*"):
        assert re.findall(r"--uid (\d+)", file.read_text()) == ["10001"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_of_a_pod_start_a_service(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    environ = {**settings["data"], f"{ENV_PREFIX}REDIS_URL": "redis://think-ahead-redis:6379/0"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    loaded = load_settings([], environ)
    (container,) = named(overlay, "Deployment", "think-ahead")["spec"]["template"]["spec"][
        "containers"
    ]
    assert [port["containerPort"] for port in container["ports"]] == [loaded.port]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "keys")
    assert loaded.keys_file is not None
    assert str(loaded.keys_file.parent) == mount["mountPath"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_variables_of_pods_are_settings_that_exist(overlay: str) -> None:
    found = {each["name"] for one in containers(overlay) for each in one.get("env", [])}
    settings = {f"{ENV_PREFIX}{name}REDIS_URL" for name in ("", "ADMIN_")}
    assert found <= {"OMP_NUM_THREADS", "HOME", *settings}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_words_of_the_offline_pods_are_those_of_its_command_line(overlay: str) -> None:
    commands = {
        one["args"][0]: [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in one["args"]]
        for one in containers(overlay)
        if "think-ahead-offline" in one["image"]
    }
    assert set(commands) == {"plan", "think", "refresh", "worker"}
    for words in commands.values():
        asked = _parser().parse_args(words)
        assert str(asked.out) == "/generations"
        assert (ROOT / asked.release).is_dir()
    assert "--resume" in commands["refresh"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_learner_writes_the_folder_that_the_services_read(overlay: str) -> None:
    learner = named(overlay, "Deployment", "think-ahead-learner")["spec"]
    assert learner["replicas"] == 1
    assert learner["strategy"] == {"type": "Recreate"}
    (container,) = learner["template"]["spec"]["containers"]
    asked = parse_learn(container["args"])
    assert asked.follow
    assert (ROOT / asked.release).is_dir()
    assert (ROOT / asked.data).is_dir()
    (settings,) = of_kind(overlay, "ConfigMap")
    assert settings["data"][f"{ENV_PREFIX}LIVE_DIR"] == str(asked.live)
    service = named(overlay, "Deployment", "think-ahead")["spec"]["template"]["spec"]
    (mount,) = (m for m in service["containers"][0]["volumeMounts"] if m["name"] == "live")
    assert mount == {"name": "live", "mountPath": str(asked.live), "readOnly": True}
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for template in (learner["template"]["spec"], service)
        for volume in template["volumes"]
        if volume["name"] == "live"
    }
    assert claims == {"live": "think-ahead-live"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_of_a_night_divide_all_of_its_shards(overlay: str) -> None:
    job = named(overlay, "CronJob", "think-ahead-think")["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    words = container["args"]
    assert job["completionMode"] == "Indexed"
    assert words[words.index("--of") + 1] == str(job["completions"]) == str(job["parallelism"])
    assert words[words.index("--index") + 1] == "$(JOB_COMPLETION_INDEX)"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_no_retry_mends_ends_the_job(overlay: str) -> None:
    for one in of_kind(overlay, "CronJob"):
        job = one["spec"]["jobTemplate"]["spec"]
        fatal = job["podFailurePolicy"]["rules"][0]
        (container,) = job["template"]["spec"]["containers"]
        assert fatal["action"] == "FailJob"
        assert fatal["onExitCodes"]["containerName"] == container["name"]
        assert EX_CONFIG in fatal["onExitCodes"]["values"]
        if container["args"][0] == "refresh":
            assert EX_DATAERR in fatal["onExitCodes"]["values"]
        claim = named(overlay, "PersistentVolumeClaim", "think-ahead-generations")
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_stage_of_the_night_is_over_before_the_next_begins(overlay: str) -> None:
    night = [named(overlay, "CronJob", f"think-ahead-{name}") for name in STAGES]
    starts = [_start_of(one["spec"]["schedule"]) for one in night]
    for one, start, following in zip(night, starts, [*starts[1:], starts[0] + 86_400], strict=True):
        assert one["spec"]["concurrencyPolicy"] == "Forbid"
        assert one["spec"]["timeZone"] == "Etc/UTC"
        late_s = one["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
        assert start + late_s < following


STAGES = ("plan", "think", "refresh")


def _start_of(schedule: str) -> int:
    """Seconds after midnight of a daily schedule."""
    minute, hour, *rest = schedule.split()
    assert rest == ["*", "*", "*"]
    return 3600 * int(hour) + 60 * int(minute)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_time_to_be_forgotten_and_to_drain(overlay: str) -> None:
    spec = named(overlay, "Deployment", "think-ahead")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    forgotten_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= forgotten_s + _DRAIN_S + 5
    probe = container["readinessProbe"]
    assert forgotten_s > probe["periodSeconds"]


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_probes_ask_routes_that_answer(overlay: str) -> None:
    """Readiness is not the store's: that is tests/system/test_service_faults.py."""
    spec = named(overlay, "Deployment", "think-ahead")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    async with serving(MemoryStore()) as service:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[kind]["httpGet"]
            assert asked["port"] in {port["name"] for port in container["ports"]}
            answer = await service.client.get(asked["path"])
            assert answer.status_code in (200, 503)


async def test_pods_are_scaled_by_a_metric_that_the_service_has() -> None:
    """The HPA's metric is the adapter's, and the adapter's query is over a live series."""
    (scaler,) = of_kind("base", "HorizontalPodAutoscaler")
    asked = [
        metric["pods"]["metric"]["name"]
        for metric in scaler["spec"]["metrics"]
        if metric["type"] == "Pods"
    ]
    adapter = yaml.safe_load((TREE / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert [rule["name"]["as"]] == asked
    series = rule["seriesQuery"].partition(",namespace")[0] + "}"
    assert series.removesuffix("}") in rule["metricsQuery"]
    async with serving(MemoryStore()) as service:
        await service.recommend("somebody")
        assert await service.metric(series) > 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_scaler_scales_the_service_within_sane_bounds(overlay: str) -> None:
    (scaler,) = of_kind(overlay, "HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    deployment = named(overlay, target["kind"], target["name"])
    assert "replicas" not in deployment["spec"]  # or each apply would undo the scaler's work
    assert 3 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]


def test_the_bundled_keys_are_a_sound_file_and_open_nothing() -> None:
    (client,) = read_keys(TREE / "overlays" / "single" / "keys.yaml").clients
    assert [key.sha256 for key in client.keys] == ["0" * 64]  # the digest of no known text


def test_a_production_cell_is_as_large_as_the_sizing_says() -> None:
    needed = size(40e6, read_measured(), Assumed())
    assert needed.cells == 1
    values = yaml.safe_load((TREE / "redis-cluster.yaml").read_text())
    assert values["cluster"]["nodes"] >= needed.shards * (1 + values["cluster"]["replicas"])
    (scaler,) = of_kind("overlays/production", "HorizontalPodAutoscaler")
    assert needed.pods <= scaler["spec"]["maxReplicas"]
    job = named("overlays/production", "CronJob", "think-ahead-think")["spec"]["jobTemplate"]
    assert needed.think_cores <= job["spec"]["completions"]


def test_redis_evicts_nobody_and_wastes_nothing_on_short_histories() -> None:
    values = yaml.safe_load((TREE / "redis-cluster.yaml").read_text())
    lines = dict(line.split(" ", 1) for line in values["redis"]["configmap"].splitlines())
    assert lines["maxmemory-policy"] == "noeviction"
    assert lines["maxmemory"] == f"{Assumed().shard_gib:.0f}gb"
    (redis,) = (one for one in containers("overlays/single") if one["name"] == "redis")
    words = redis["args"]
    assert words[words.index("--stream-node-max-bytes") + 1] == lines["stream-node-max-bytes"]
    labels = {f"think-ahead-{values_name()}-client": "true"}
    for name, template in pod_templates("overlays/production"):
        assert labels.items() <= template["metadata"]["labels"].items(), name


def values_name() -> str:
    """The chart names its pods after the release and itself."""
    text = (TREE / "redis-cluster.yaml").read_text()
    found = re.search(r"helm install think-ahead-(\S+) oci://\S+/(\S+)", text)
    assert found is not None
    return f"{found.group(1)}-{found.group(2)}"
