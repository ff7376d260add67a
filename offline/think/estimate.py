"""Estimate the cost of a night by thinking about a sample of its users. Writes nothing."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from models.reasoner.think import UserThoughts
from models.store.keys import DEFAULT_KEYS, UserRow, encode_row
from offline.disk.outcome import Outcome
from offline.plan.due import micro_batches
from offline.plan.make_plan import Agenda
from offline.settings import RefreshSettings
from offline.think.micro_batch import Think, in_use, think_about, to_record
from offline.think.night_model import Night, add_findings

SAMPLE_USERS = 64

# A value of 199 bytes took 325 bytes in Redis, including key and TTL.
_KEY_BYTES = 126


def estimate(
    settings: RefreshSettings,
    agenda: Agenda,
    load: Callable[[], Think],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Estimate the night on this device, as a summary for people and scripts.

    load: loads the engine; not called if there is no user to think about.
    """
    due = agenda.to_think
    night = Night(agenda.catalog, agenda.night) if agenda.night is not None else None
    sample = random.Random(settings.seed).sample(due, min(SAMPLE_USERS, len(due)))
    outcome, thoughts, seconds = Outcome(), list[UserThoughts](), 0.0
    if sample:
        with in_use(load()) as think:
            started = clock()
            for batch in micro_batches([user.history for user in sample], settings.micro_batch):
                found = think_about(batch, think, outcome)
                thoughts += add_findings(night, batch, found)
            seconds = clock() - started
    factor = len(due) / max(len(sample), 1)
    hours = seconds * factor / 3600
    price = settings.price_per_hour
    num_records = round(outcome.refreshed * factor) + len(agenda.to_carry)
    return {
        "users_chosen": len(agenda.due),
        "users_to_think_about": len(due),
        "users_to_carry": len(agenda.to_carry),
        "sample_users": len(sample),
        "tokens": round(outcome.tokens * factor),
        "users_per_s": round(len(sample) / seconds, 3) if seconds else None,
        "device_hours": round(hours, 4),
        "price_per_hour": price,
        "money": round(hours * price, 2) if price is not None else None,
        "redis_bytes": round(_mean_bytes(thoughts) * num_records),
        "eta_s": round(seconds * factor, 1),
    }


def _mean_bytes(thoughts: Sequence[UserThoughts]) -> float:
    """Return the mean bytes of a user in Redis, record and texts; 0 without a sample.

    Carried rows are not read.
    """
    sizes = [_num_bytes(each) for each in thoughts if each.prefixes]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _num_bytes(thoughts: UserThoughts) -> int:
    record = to_record(thoughts, generation=1, fingerprint=0, created_at=0)
    values = encode_row(1, UserRow(thoughts.user_id, record, thoughts.texts), DEFAULT_KEYS).values()
    return sum(_KEY_BYTES + len(value) for value in values)
