"""Metrics, dashboard and alerts against the /metrics of a real service after some requests."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.auth.api_keys import new_key
from tests import ROOT
from tests.fakes.service_harness import RedisServer, ServiceProcess, toy_release_dir

pytestmark = pytest.mark.system


DEPLOY = ROOT / "deploy"
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\| .+ \|$", re.MULTILINE)
_OF_PROMETHEUS = {"job", "instance", "__name__"}  # labels that a scrape adds


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    """Metric families by their PromQL name, without the suffixes of a histogram."""
    folder = tmp_path_factory.mktemp("live")
    key = new_key()
    limited = {"client": "shop", "scopes": ["recommend", "events"], "rate_per_s": 0.001, "burst": 9}
    (folder / "keys.yaml").write_text(
        yaml.safe_dump({"clients": [limited | {"keys": [{"sha256": key.sha256}]}]})
    )
    with RedisServer(folder) as server:
        config = {
            "release_dir": str(toy_release_dir()),
            "redis_url": server.url,
            "redis_timeout_ms": 5000,
            "workers": 2,  # their page has all metrics of a process alone, and two of its own
            "keys_file": str(folder / "keys.yaml"),
            "experiments": [{"name": "test", "share": 1, "arms": [{"name": "only"}]}],
        }
        (folder / "service.yaml").write_text(json.dumps(config))
        with ServiceProcess("--config", str(folder / "service.yaml")) as process:
            with httpx.Client(base_url=process.url, headers={"X-Api-Key": key.key}) as client:
                client.post("/events/user", json={"item_id": "x"})
                for _ in range(10):
                    client.get("/recommend/user?n=3")
                text = client.get("/metrics").text
            assert process.stop() == 0
    found = [each for each in text_string_to_metric_families(text) if not _is_noise(each)]
    return {each.name + ("_total" if each.type == "counter" else ""): each for each in found}


def _is_noise(family: Metric) -> bool:
    return family.name.endswith("_created")  # when a counter began: nobody asks


def labels_of(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels} - {"le"}


def test_every_metric_is_documented_and_every_documented_one_is_there(
    families: dict[str, Metric],
) -> None:
    documented = {
        name: (kind, set(filter(None, re.split(r",? +", labels))))
        for name, kind, labels in _ROW.findall((DEPLOY / "METRICS.md").read_text())
    }
    live = {name: (family.type, labels_of(family)) for name, family in families.items()}
    assert documented == live


def dashboard_queries() -> list[str]:
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


QUERIES = sorted({*dashboard_queries(), *(rule["expr"] for rule in rules())})


def selectors(node: Any) -> Iterator[Any]:
    """All vector selectors below a node."""
    if isinstance(node, promql.VectorSelector):
        yield node
    elif isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql.Call):
        for argument in node.args:
            yield from selectors(argument)
    else:
        for name in ("expr", "lhs", "rhs", "param"):
            if (child := getattr(node, name, None)) is not None:
                yield from selectors(child)


def groupings(node: Any) -> Iterator[tuple[set[str], Any]]:
    """Labels kept by an aggregation, each with the aggregated expression."""
    if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
        yield set(node.modifier.labels), node.expr
    children = node.args if isinstance(node, promql.Call) else []
    for name in ("expr", "lhs", "rhs"):
        if (child := getattr(node, name, None)) is not None:
            children = [*children, child]
    for child in children:
        yield from groupings(child)


def samples_of(families: dict[str, Metric], name: str) -> list[dict[str, str]]:
    """Labels of the live samples of exactly this name."""
    found = [
        sample.labels
        for family in families.values()
        for sample in family.samples
        if sample.name == name
    ]
    assert found, f"{name} is not on /metrics"
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_metrics_and_labels_that_exist(
    families: dict[str, Metric], query: str
) -> None:
    tree = promql.parse(query.replace("$__rate_interval", "5m").replace("$job", ".*"))
    found = list(selectors(tree))
    assert found
    for selector in found:
        samples = samples_of(families, selector.name)
        for matcher in selector.matchers.matchers:
            if matcher.name in _OF_PROMETHEUS:
                continue
            values = {sample[matcher.name] for sample in samples}  # KeyError: no such label
            if matcher.op == promql.MatchOp.Equal:
                assert matcher.value in values, (matcher.name, matcher.value, values)
            elif matcher.op == promql.MatchOp.Re and matcher.name != "status":
                assert any(re.fullmatch(matcher.value, value) for value in values), matcher.value
    for labels, inner in groupings(tree):
        for selector in selectors(inner):
            for sample in samples_of(families, selector.name):
                assert labels <= sample.keys() | _OF_PROMETHEUS, labels


def test_the_check_of_queries_finds_what_is_wrong(families: dict[str, Metric]) -> None:
    """A test of the test: names, labels, values and groupings that do not exist are all found."""
    for query in (
        "thinkahead_no_such_metric > 0",
        'thinkahead_reloads_total{outcom="refused"}',
        'thinkahead_reloads_total{outcome="refusd"}',
        "sum by (sauce) (rate(thinkahead_items_total[5m]))",
        'absent(thinkahead_items_total{source=~"nothing.*"})',
    ):
        with pytest.raises((AssertionError, KeyError)):
            test_a_query_asks_for_metrics_and_labels_that_exist(families, query)


def test_alerts_have_names_of_their_own_and_say_who_should_get_up() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}


def test_panels_of_the_dashboard_do_not_overlap_and_say_what_they_show() -> None:
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
