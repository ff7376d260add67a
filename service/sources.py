"""Vocabulary of answers: sources, modes, grounds, criticality, and reasons for a lower rung.

These are words of the API and labels of metrics, so a new one is a change that users see.
"""

from enum import StrEnum

DEFAULT_ITEMS = 10  # of an answer, if the request names no number


class Source(StrEnum):
    """Rungs of the ladder, best first."""

    PERSONAL = "personal"  # prefixes of this user's record, written by the night
    STALE = "stale"  # such a record, but over age, a local copy, or behind an unreadable record
    ONLINE = "online"  # the online model's own prefixes for this history
    GLOBAL = "global"  # prefixes shipped with the release
    POPULAR = "popular"  # a fixed list, no model


class Mode(StrEnum):
    """Prefixes that the rungs of a record search."""

    STRICT = "strict"  # the record's prefixes alone, as in the paper
    UNION = "union"  # the record's prefixes and the online model's own
    FUSED = "fused"  # the whole catalog, with the night's bonus for the items of the record


class Ground(StrEnum):
    """Largest part of the score of an item."""

    MEMORY = "memory"  # counts of pairs with items of the history
    WORDS = "words"  # texts like those of items of the history
    NIGHT = "night"  # the night's bonus
    WISH = "wish"  # the bonus of the user's wish
    MODEL = "model"  # the online model
    POPULAR = "popular"  # no score: a fixed order


class Criticality(StrEnum):
    """Importance of a request under overload, set by the caller: sheddable ones go first."""

    __hash__ = str.__hash__  # faster than Enum's, which is Python: every request looks it up

    CRITICAL = "critical"  # last
    DEFAULT = "default"
    SHEDDABLE = "sheddable"  # first


class Reason(StrEnum):
    """Reason why a rung did not answer, or not alone."""

    HELD = "held"  # no fault: the user belongs to the share that is held at a lower rung
    OVERLOAD = "overload"  # more requests in work than the limit: neither store nor model asked

    NO_RECORD = "no_record"  # the night has written no record of this user
    NO_HISTORY = "no_history"  # and the user has no history either
    OVER_AGE = "over_age"  # the record is older than the setting allows
    STORE = "store"  # the store failed or was too slow
    BREAKER = "breaker"  # the store was not asked, because it failed just before
    MANIFEST = "manifest"  # this process refuses the manifest that it found
    CORRUPT = "corrupt"  # a record that does not decode
    FOREIGN = "foreign"  # a record of another user under this user's key
    SKEW = "skew"  # a record of another SID space
    LOST_HISTORY = "lost_history"  # a history, or entries of it, that does not decode
    SHORT = "short"  # a rung filled a part of the answer
    EMPTY = "empty"  # a rung gave no item: all were seen, or no score was finite
    QUEUE_FULL = "queue_full"  # too many jobs of the model thread were waiting
    NO_TIME = "no_time"  # the deadline came first
    FINISH = "finish"  # the finish raised an exception: a bug, logged
    THOUGHTS = "thoughts"  # the reasoning texts of the record could not be read


class NotStored(StrEnum):
    """Reason why an accepted event is not in the history of the store."""

    TOO_OLD = "too_old"  # the history is full, and the event is no newer than the oldest one there
    WAITING = "waiting"  # in this process, for a store that is away
