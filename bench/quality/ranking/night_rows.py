"""A night's result per user, as a night writes it: C_u from all sources, and records.

Knows cases, thoughts and records. Knows nothing of Redis, HTTP or the disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.common.leave_one_out import Case
from bench.quality.ranking.plain_rows import encode_case, rank_in
from bench.quality.ranking.quality_rows import CUTOFFS
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts
from models.night.night_items import NightItems
from models.night.night_prefixes import NightPrefixes
from models.night.recorded_night import bonus_of
from models.online.finish import Finisher
from models.reasoner.think import PathPrefix
from models.store.records import PrefixRecord, RecordedItem, RecordedPrefix

NUM_PREFIXES = 32  # of a record, as a night has it by default
_CREATED_AT = 1  # unix seconds; no rank depends on it


@dataclass(frozen=True)
class CaseNights:
    """Nights over cases: all that a release and its data tell beside thoughts."""

    finisher: Finisher
    items: NightItems
    prefixes: NightPrefixes

    @classmethod
    def of(cls, finisher: Finisher, items: NightItems) -> "CaseNights":
        return cls(finisher, items, NightPrefixes(finisher, items))

    def choose(self, cases: Sequence[Case], thoughts: Thoughts) -> Thoughts:
        """Replace C_u of the thoughts by the best prefixes of all sources."""
        users = [
            replace(user, found=self._choose(case, user))
            for case, user in zip(cases, thoughts.users, strict=True)
        ]
        return Thoughts(users, thoughts.seconds)

    def without_thoughts(self, cases: Sequence[Case]) -> Thoughts:
        """Return C_u of all sources but the thoughts."""
        nothing = [CaseThoughts.nothing(case.history.user_id) for case in cases]
        return self.choose(cases, Thoughts(nothing, 0.0))

    def record(self, case: Case, found: CaseThoughts) -> bytes:
        """Return the bytes of a user's record, as a night stores them."""
        space = self.finisher.catalog.space
        items = self.items.find_sids(case.history.rows, self.finisher.catalog)
        prefixes = tuple(
            RecordedPrefix(prefix.codes, prefix.path, prefix.logprob) for prefix in found.found
        )
        recorded = tuple(RecordedItem(*item) for item in items)
        record = PrefixRecord(_CREATED_AT, space.fingerprint, _CREATED_AT, prefixes, recorded)
        return record.encode(case.history.user_id)

    def _choose(self, case: Case, user: CaseThoughts) -> tuple[PathPrefix, ...]:
        if not case.history.rows:
            return ()
        return self.prefixes.choose(case.history.rows, user.found, num=NUM_PREFIXES)


class RecordedRow:
    """Ranks the whole catalog by the online scores and the bonus in a user's record."""

    def __init__(self, finisher: Finisher, records: Mapping[str, bytes]) -> None:
        """records: by user id."""
        self._finisher, self._records = finisher, records

    def rank(self, case: Case) -> float:
        user_id, catalog = case.history.user_id, self._finisher.catalog
        data = self._records[user_id]
        items = PrefixRecord.decode(data, user_id=user_id, space=catalog.space).items
        found = self._finisher.finish(
            encode_case(self._finisher, case),
            self._finisher.whole,
            k=max(CUTOFFS),
            exclude=case.seen,
            night=bonus_of(catalog, items) if items else None,
        )
        return rank_in(found, case)


def describe_records(records: Mapping[str, bytes]) -> dict[str, float]:
    """Return mean and largest number of bytes of a record."""
    sizes = [len(record) for record in records.values()]
    return {"mean_bytes": float(np.mean(sizes)), "most_bytes": float(max(sizes))}
