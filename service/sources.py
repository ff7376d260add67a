"""Where an answer can come from, and every reason to come from lower down.

Words of the API and labels of metrics: a new one is a change that users see.
"""

from enum import StrEnum

DEFAULT_ITEMS = 10  # of an answer, if the request names no number


class Source(StrEnum):
    """The rungs of the ladder, best first."""

    PERSONAL = "personal"  # prefixes that the night thought of for this user
    STALE = "stale"  # such a record, but over age, a copy, or behind an unreadable one
    ONLINE = "online"  # the online model's own prefixes for this history
    GLOBAL = "global"  # prefixes shipped with the release
    POPULAR = "popular"  # a fixed list, no model


class Mode(StrEnum):
    """What the rungs of a record finish."""

    STRICT = "strict"  # its prefixes alone, as in the paper
    UNION = "union"  # its prefixes and the online model's own


class Criticality(StrEnum):
    """Who is shed first under overload; said by the caller."""

    __hash__ = str.__hash__  # Enum's own is Python, and every request looks its kind up

    CRITICAL = "critical"  # last
    DEFAULT = "default"
    SHEDDABLE = "sheddable"  # first


class Reason(StrEnum):
    """Why a rung was passed over."""

    HELD = "held"  # nothing is wrong: this user belongs to the sticky share of a lower rung
    OVERLOAD = "overload"  # more requests in work than the limit: no store, no model

    NO_RECORD = "no_record"  # the night has not thought about this user
    NO_HISTORY = "no_history"  # and nothing is known of what the user did
    OVER_AGE = "over_age"  # the record is older than the setting allows
    STORE = "store"  # the store failed or was too slow
    BREAKER = "breaker"  # the store was not asked, as it failed just before
    MANIFEST = "manifest"  # a manifest is there, but this process refuses it
    CORRUPT = "corrupt"  # a record that does not decode
    FOREIGN = "foreign"  # a record of another user under this user's key
    SKEW = "skew"  # a record of another SID space
    LOST_HISTORY = "lost_history"  # a history, or entries of it, that does not decode
    SHORT = "short"  # a rung filled a part of the answer
    EMPTY = "empty"  # a rung gave nothing: all seen, or no finite score
    QUEUE_FULL = "queue_full"  # too many finishes were waiting
    NO_TIME = "no_time"  # the deadline came first
    FINISH = "finish"  # the finish raised: a bug, logged
    THOUGHTS = "thoughts"  # the texts behind the record could not be read
