"""Hooks of schemathesis for facts that OpenAPI cannot tell: legal ids and real cursors."""

from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

_LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
_PAST = 1_700_000_000  # unix seconds
_MAX_CHARS = 64  # of 4 bytes at most, so that none has more than 256

schemathesis.openapi.format("opaque-id", st.text(_LETTERS, min_size=1, max_size=_MAX_CHARS))
schemathesis.openapi.format("cursor", st.just("of the same request"))


@schemathesis.hook
def before_call(context: HookContext, case: "Case[Any]", kwargs: dict[str, Any]) -> None:
    """A cursor that is meant well is the one that the same request without it was answered with."""
    for holder in (case.query, case.body):
        if not isinstance(holder, dict) or "cursor" not in holder or not _is_meant_well(case):
            continue
        del holder["cursor"]
        answer = case.call(**kwargs)
        following = answer.json().get("next_cursor") if answer.status_code == 200 else None
        if following is not None:
            holder["cursor"] = following


@schemathesis.hook("before_call")
def date_in_the_past(context: HookContext, case: "Case[Any]", kwargs: dict[str, Any]) -> None:
    """A time that is meant well is not in the future, which the document cannot tell."""
    if _is_meant_well(case):
        _date_in_the_past(case.body)


def _date_in_the_past(part: object) -> None:
    if isinstance(part, dict):
        if isinstance(part.get("timestamp"), int | float):
            part["timestamp"] %= _PAST
        _date_in_the_past(list(part.values()))
    elif isinstance(part, list):
        for each in part:
            _date_in_the_past(each)


def _is_meant_well(case: "Case[Any]") -> bool:
    return case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE
