"""Prometheus metrics of the service, documented in deploy/METRICS.md.

One registry per `Metrics` object, so that tests can create several. Knows nothing of HTTP.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from service.sources import Criticality, NotStored, Reason, Source
from service.telemetry.merged_metrics import Merge, Snapshot, take_snapshot

_LATENCY_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015),
    *(0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 1),
)
_DELAY_BUCKETS_S = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)
_STORED = {None: "true", NotStored.WAITING: "false", NotStored.TOO_OLD: "too_old"}
_AGE_BUCKETS_S = tuple(hours * 3600 for hours in (1, 3, 6, 12, 24, 36, 48, 72, 120))


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._merges: dict[str, Merge] = {  # of gauges, where workers share a page; otherwise sum
            "thinkahead_manifest_epoch": "min",
            "thinkahead_model_info": "max",
            "process_start_time_seconds": "min",
        }
        self._requests = Counter(
            "thinkahead_requests",
            "Responses by route, source (empty if none applies) and status.",
            ["route", "source", "status"],
            registry=self.registry,
        )
        self._items = Counter(
            "thinkahead_items",
            "Recommended items by the rung that they come from.",
            ["source"],
            registry=self.registry,
        )
        self._stages = Histogram(
            "thinkahead_stage_seconds",
            "Seconds per stage of a recommendation: store, queue, encode, finish, total.",
            ["stage"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._fallbacks = Counter(
            "thinkahead_fallbacks",
            "Rungs that were skipped, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._record_age = Histogram(
            "thinkahead_record_age_seconds",
            "Age of the records that answers use, in seconds.",
            buckets=_AGE_BUCKETS_S,
            registry=self.registry,
        )
        self._future_records = Counter(
            "thinkahead_future_records",
            "Records with a date in the future; their age is observed as 0.",
            registry=self.registry,
        )
        self._rungs = Histogram(
            "thinkahead_rung_seconds",
            "Seconds of a whole recommendation by the rung that answered; held: true for users in "
            "the fixed share of that rung (`rung_share`).",
            ["source", "held"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._events = Counter(
            "thinkahead_events",
            "Accepted events; stored: true, false while they wait for the store, or too_old.",
            ["stored"],
            registry=self.registry,
        )
        self._manifest_epoch = Gauge(
            "thinkahead_manifest_epoch",
            "Epoch of the manifest in use; 0 before the first.",
            registry=self.registry,
        )
        self._manifest_refused = Counter(
            "thinkahead_manifest_refused",
            "Manifests that were read and rejected, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._reloads = Counter(
            "thinkahead_reloads",
            "Reloads of a release directory: taken, unchanged or refused.",
            ["outcome"],
            registry=self.registry,
        )
        self._swaps = Counter(
            "thinkahead_model_swaps",
            "Versions of live folders that took over, by what changed; refused: pointers that were "
            "read and not followed.",
            ["model", "change"],
            registry=self.registry,
        )
        self._swap_delay = Histogram(
            "thinkahead_model_swap_delay_seconds",
            "Seconds from the writing of a model pointer until its version served.",
            buckets=_DELAY_BUCKETS_S,
            registry=self.registry,
        )
        self._model_answers = Counter(
            "thinkahead_model_answers",
            "Recommendations by the model (own, canary, arm) and the rung that answered.",
            ["model", "source"],
            registry=self.registry,
        )
        self._model_seconds = Histogram(
            "thinkahead_model_seconds",
            "Seconds of a whole recommendation by the model: own, canary, arm.",
            ["model"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._exposures = Counter(
            "thinkahead_exposures",
            "Answers in an experiment, by arm.",
            ["experiment", "arm"],
            registry=self.registry,
        )
        self._client_requests = Counter(
            "thinkahead_client_requests",
            "Requests that need an API key, by client (empty if unknown) and outcome: taken, "
            "no_key, unknown_key, scope or rate.",
            ["client", "outcome"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        # Children are cached, because `labels` takes longer than counting. Children in alert rules
        # are created now: PromQL's `increase` misses the first 1 of a counter that starts with it.
        for outcome in ("taken", "unchanged", "refused"):
            self._reloads.labels(outcome)
        for reason in ("garbage", "fingerprint", "epoch"):
            self._manifest_refused.labels(reason)
        for change in ("counts", "weights", "base", "refused"):
            self._swaps.labels("own", change)
        for model in ("own", "canary"):
            self._model_seconds.labels(model)
        self._reason = {reason: self._fallbacks.labels(reason.value) for reason in Reason}
        self._rung: dict[tuple[Source, bool], Histogram] = {}
        self._stage: dict[str, Histogram] = {}
        self._source: dict[Source, Counter] = {}
        self._client: dict[tuple[str, str], Counter] = {}
        self._request: dict[tuple[str, str, int], Counter] = {}
        self._model: dict[tuple[str, Source], tuple[Counter, Histogram]] = {}
        self._tallies: list[Callable[[], None]] = []

    def watch(
        self, name: str, documentation: str, read: Callable[[], float], *, merge: Merge = "sum"
    ) -> None:
        """Add a gauge; `read` gives its value at each rendering.

        merge: value of several workers on one page.
        """
        self._merges[f"thinkahead_{name}"] = merge
        Gauge(f"thinkahead_{name}", documentation, registry=self.registry).set_function(read)

    def watch_refusals(self, counts: Mapping[Criticality, int]) -> None:
        """Add the counter of refusals, read when metrics are rendered.

        Counting here would make a refusal too expensive.
        """
        self.registry.register(_Refusals(counts))

    def watch_hits(self, num_judged: Mapping[str, int], num_hits: Mapping[str, int]) -> None:
        """Add the counters of live recall, by model, read when metrics are rendered."""
        self.registry.register(_LiveHits(num_judged, num_hits))

    def watch_models(self, read: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Add the info of the models in use; `read` returns model and base release of each."""
        self.registry.register(_Models(read))

    def before_rendering(self, tally: Callable[[], None]) -> None:
        """Call `tally` before each rendering; it adds counts that are kept in another object."""
        self._tallies.append(tally)

    def count_request(self, *, route: str, source: str, status: int, num: int = 1) -> None:
        key = (route, source, status)
        if key not in self._request:
            self._request[key] = self._requests.labels(route, source, str(status))
        self._request[key].inc(num)

    def count_item_sources(self, sources: Iterable[Source]) -> None:
        for source, num in collections.Counter(sources).items():
            self.count_items(source, num)

    def count_items(self, source: Source, num: int) -> None:
        if source not in self._source:
            self._source[source] = self._items.labels(source.value)
        self._source[source].inc(num)

    def observe_stages(self, seconds: dict[str, float]) -> None:
        for stage, duration_s in seconds.items():
            if stage not in self._stage:
                self._stage[stage] = self._stages.labels(stage)
            self._stage[stage].observe(duration_s)

    def observe_rung(self, source: Source, seconds: float, *, is_held: bool) -> None:
        key = (source, is_held)
        if key not in self._rung:
            self._rung[key] = self._rungs.labels(source.value, str(is_held).lower())
        self._rung[key].observe(seconds)

    def observe_model(self, model: str, source: Source, seconds: float) -> None:
        key = (model, source)
        if key not in self._model:
            self._model[key] = (
                self._model_answers.labels(model, source.value),
                self._model_seconds.labels(model),
            )
        answers, histogram = self._model[key]
        answers.inc()
        histogram.observe(seconds)

    def count_swap(self, model: str, change: str) -> None:
        self._swaps.labels(model, change).inc()

    def observe_swap_delay(self, seconds: float) -> None:
        self._swap_delay.observe(max(seconds, 0.0))

    def count_fallback(self, reason: Reason, num: int = 1) -> None:
        self._reason[reason].inc(num)

    def observe_record_age(self, age_s: float) -> None:
        """Observe an age in seconds; it is negative if the record's date is in the future."""
        if age_s < 0:
            self._future_records.inc()
        self._record_age.observe(max(age_s, 0.0))

    def count_event(self, reason: NotStored | None) -> None:
        self._events.labels(_STORED[reason]).inc()

    def count_exposure(self, experiment: str, arm: str) -> None:
        self._exposures.labels(experiment, arm).inc()

    def count_client_request(self, client: str, outcome: str) -> None:
        key = (client, outcome)
        if key not in self._client:
            self._client[key] = self._client_requests.labels(client, outcome)
        self._client[key].inc()

    def set_manifest_epoch(self, epoch: int) -> None:
        self._manifest_epoch.set(epoch)

    def count_manifest_refusal(self, reason: str) -> None:
        self._manifest_refused.labels(reason).inc()

    def count_reload(self, outcome: str) -> None:
        self._reloads.labels(outcome).inc()

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        self._tally()
        return generate_latest(self.registry)

    def snapshot(self) -> Snapshot:
        """Return all metrics as values, for a page of several workers."""
        self._tally()
        return take_snapshot(self.registry, self._merges)

    def _tally(self) -> None:
        for tally in self._tallies:
            tally()


class _Refusals(Collector):
    def __init__(self, counts: Mapping[Criticality, int]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "thinkahead_refusals",
            "Requests rejected with 503 before they were parsed, by X-Criticality.",
            labels=["criticality"],
        )
        for criticality, count in self._counts.items():
            family.add_metric([criticality.value], count)
        yield family


class _LiveHits(Collector):
    """Both counters begin at 0 again with each canary, which Prometheus takes for a restart."""

    def __init__(self, num_judged: Mapping[str, int], num_hits: Mapping[str, int]) -> None:
        self._num_judged, self._num_hits = num_judged, num_hits

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, text, counts in (
            ("model_events", "Events that were the first behind an answer.", self._num_judged),
            ("model_hits", "Of these, events of an item among its first ten.", self._num_hits),
        ):
            family = CounterMetricFamily(f"thinkahead_{name}", text, labels=["model"])
            for model in sorted({"own", *self._num_judged}):
                family.add_metric([model], counts.get(model, 0))
            yield family


class _Models(Collector):
    """Without the number of deltas: a label that changes every second would flood the scraper."""

    def __init__(self, read: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "thinkahead_model_info",
            "1 for each base release in use, by model: own, canary, arm.",
            labels=["model", "release"],
        )
        for model, release in self._read():
            family.add_metric([model, release], 1)
        yield family
