"""Ids of users, items and events: texts, or integers that are sent as text."""

from typing import TypeAlias

from thinkahead_client.errors import InvalidArgument

Id: TypeAlias = str | int


def id_text(value: Id) -> str:
    """Return the id as the service knows it: 7 is "7". Raises InvalidArgument.

    The service checks its own rules, such as the length.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidArgument(f"id {value!r}, expected text or an integer")
    text = str(value)
    if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidArgument(f"id {text[:40]!r} holds a lone surrogate, expected text of UTF-8")
    return text
