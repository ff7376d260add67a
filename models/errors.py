"""Tree of the exceptions that our code raises on purpose.

ThinkAheadError
  InvalidInput                bad data or settings: fix the input (exit 78)
    InvalidSid
    InvalidCatalog
    InvalidDataset
    InvalidSettings
    InvalidUserId
    InvalidCursor
    InvalidRecord             bytes that do not decode to a record
      ForeignRecord           a sound record of another user
      SkewedRecord            a sound record of another SID space or generation
  InvalidRelease              a release that must not be loaded (exit 78)
    ReleaseMismatch           sound by itself, but not for this SID space or store
  StoreUnavailable            transient: fall back or retry (exit 75)
    StoreFull                 out of memory: waiting alone does not help
  CursorGone                  a paged list of a release or generation that is gone (begin again)
  ManifestConflict            another writer won the compare-and-set (exit 75)
  LeaseTaken                  another job works on the same plan (exit 75)
  GatesFailed                 a generation or a release that must not go live as it is (exit 65)
"""


class ThinkAheadError(Exception):
    """Root of the tree; its text is one line, even if it repeats an input of several lines."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class InvalidInput(ThinkAheadError):
    """Bad data or settings: the input has to be fixed."""


class InvalidSid(InvalidInput):
    """A code outside its codebook, or a tuple of the wrong length."""


class InvalidCatalog(InvalidInput):
    """Items and SIDs that do not form a catalog."""


class InvalidDataset(InvalidInput):
    """A data folder that breaks its contract; the text names file, row and expectation."""


class InvalidSettings(InvalidInput):
    """An unknown key, a bad value or a missing one."""


class InvalidUserId(InvalidInput):
    """A user id that is empty, too long or holds control characters."""


class InvalidCursor(InvalidInput):
    """A cursor that this service did not issue, or that belongs to another request."""


class InvalidRecord(InvalidInput):
    """Bytes that do not decode to a record."""


class ForeignRecord(InvalidRecord):
    """A sound record that belongs to another user."""


class SkewedRecord(InvalidRecord):
    """A sound record of another SID space, or under the key of another generation."""


class InvalidRelease(ThinkAheadError):
    """A release that is incomplete, altered or unreadable."""


class ReleaseMismatch(InvalidRelease):
    """A sound release that does not fit the SID space it is used with."""


class StoreUnavailable(ThinkAheadError):
    """The store did not answer in time or refused to serve."""


class StoreFull(StoreUnavailable):
    """The store has no memory left for a write."""


class CursorGone(ThinkAheadError):
    """A list that cannot be continued: it is too old, or its release or generation is gone."""


class GatesFailed(ThinkAheadError):
    """A generation or a release failed a gate; the text names the gate and the expectation."""


class ManifestConflict(ThinkAheadError):
    """Another writer changed the manifest first."""


class LeaseTaken(ThinkAheadError):
    """Another job holds the lease, or took it over."""


def one_line(exc: BaseException) -> str:
    """Return the message of an exception as one line of at most 200 characters."""
    return " ".join(str(exc).split())[:200]
