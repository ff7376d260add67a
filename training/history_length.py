"""Lengths of histories as settings: at most as many items as the store keeps of a user."""

from models.store.events import HISTORY_LIMIT


def check_history(name: str, num_items: int) -> None:
    """Raise ValueError for a length that no stored history has."""
    if not 1 <= num_items <= HISTORY_LIMIT:
        raise ValueError(f"{name} {num_items}, expected 1 to {HISTORY_LIMIT}, as the store keeps")
