"""The night's model of items: fitted with the plan, read by everybody who thinks.

A night over all users fits it to all histories. A smaller night and a worker take that of the
night before; where there is none, or one of another catalog, records hold no items.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.catalog.catalog import Catalog
from models.errors import InvalidRelease, ReleaseMismatch
from models.night.night_file import NIGHT_ITEMS, load_night_items
from models.night.night_items import NightItems
from models.reasoner.think import UserHistory, UserThoughts

logger = logging.getLogger(__name__)


class NightModel:
    """The newest model below the folder of all nights, read again when there is a newer one."""

    def __init__(self, out_dir: Path) -> None:
        self._out_dir = out_dir
        self._read: tuple[Path, Catalog] | None = None
        self._found: NightItems | None = None

    def of(self, catalog: Catalog) -> NightItems | None:
        """Return the model; None, with one warning, without one that fits the catalog."""
        file = self._newest()
        if file is None:
            return None
        if self._read != (file, catalog):
            self._read, self._found = (file, catalog), _load(file, catalog)
        return self._found

    def _newest(self) -> Path | None:
        found = [
            (int(file.parent.name), file)
            for file in self._out_dir.glob(f"*/{NIGHT_ITEMS}")
            if file.parent.name.isdecimal()
        ]
        return max(found)[1] if found else None


def _load(file: Path, catalog: Catalog) -> NightItems | None:
    try:
        return load_night_items(file, catalog)
    except (InvalidRelease, ReleaseMismatch) as exc:
        logger.warning("%s: records hold no items until the next night over all users", exc)
        return None


def add_items(
    night: NightItems | None,
    catalog: Catalog,
    users: Sequence[UserHistory],
    found: Sequence[UserThoughts],
) -> list[UserThoughts]:
    """Add the items that a night finds for each user. Users without thoughts are left out."""
    if night is None:
        return list(found)
    rows = {user.user_id: user.rows for user in users}
    return [
        replace(thoughts, items=night.find_sids(rows[thoughts.user_id], catalog))
        for thoughts in found
    ]
