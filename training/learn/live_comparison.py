"""Live recall of a canary beside the model of the other users, from the metrics of services.

Chance decides which users are in which share, so both are independent samples of the same time.
"""

import math
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from models.errors import InvalidInput

_EVENTS, _HITS = "thinkahead_model_events_total", "thinkahead_model_hits_total"
_Z95 = 1.96
_TIMEOUT_S = 5


class Share(NamedTuple):
    """Events that judged the answers of one model."""

    num_hits: float
    num_events: float

    @property
    def recall(self) -> float:
        return self.num_hits / self.num_events

    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95% interval, which holds for few events too."""
        spread = _Z95**2 / self.num_events
        middle = (self.recall + spread / 2) / (1 + spread)
        variance = self.recall * (1 - self.recall) / self.num_events
        half = math.sqrt(spread * self.num_events * variance + spread**2 / 4) / (1 + spread)
        return middle - half, middle + half


def compare(urls: Sequence[str]) -> str:
    """Read the metrics of all processes, and describe both shares and their difference.

    Raises InvalidInput for a process that cannot be read, and for a share without events.
    """
    counted: Counter[tuple[str, str]] = Counter()
    for url in urls:
        counted.update(dict(_read(url)))
    shares = {}
    for model in ("own", "canary"):
        shares[model] = Share(counted[_HITS, model], counted[_EVENTS, model])
        if not shares[model].num_events:
            raise InvalidInput(f"no event has judged an answer of model {model!r} yet")
    return describe(shares["own"], shares["canary"])


def describe(own: Share, canary: Share) -> str:
    """Describe both shares, and the difference with its 95% interval (Newcombe, 1998)."""
    (own_low, own_high), (low, high) = own.interval(), canary.interval()
    difference = canary.recall - own.recall
    below = math.hypot(canary.recall - low, own_high - own.recall)
    above = math.hypot(high - canary.recall, own.recall - own_low)
    return (
        f"recall@10 of the next event: canary {canary.recall:.4f} of {canary.num_events:,.0f}, "
        f"others {own.recall:.4f} of {own.num_events:,.0f}: "
        f"{difference:+.4f} ({difference - below:+.4f} to {difference + above:+.4f})"
    )


def _read(url: str) -> Iterable[tuple[tuple[str, str], float]]:
    """Yield the counters of one process, by name and model."""
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{url}: expected the address of a service, http://...")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/metrics", timeout=_TIMEOUT_S) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{url}: no metrics of a service ({exc})") from exc
    for sample in (sample for family in families for sample in family.samples):
        if sample.name in (_EVENTS, _HITS):
            yield (sample.name, sample.labels["model"]), sample.value
