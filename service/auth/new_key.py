"""`python -m service keys new --client NAME --scopes SCOPE...`: make an API key.

Prints the key once, without storing it, and the entry for the key file.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from pydantic import ValidationError

from models.errors import InvalidSettings
from models.program import program
from service.auth.api_keys import Client, Scope, StoredKey, new_key


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    made = new_key()
    try:
        entry = Client(
            client=options.client,
            scopes=frozenset(options.scopes),
            rate_per_s=options.rate_per_s,
            keys=(StoredKey(sha256=made.sha256, expires=_last_day(options.days)),),
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        raise InvalidSettings(f"{first['loc'][0]}: {first['msg']}") from exc
    print(f"key (shown only once): {made.key}\n")
    print("For a new client, add this to THINKAHEAD_KEYS_FILE below `clients:`. For an existing")
    print("client, add only the last line, below its `keys:` (at most two):\n")
    print(_as_yaml(entry))
    return 0


def _as_yaml(entry: Client) -> str:
    (key,) = entry.keys
    lines = [
        f"  - client: {entry.client}",
        f"    scopes: [{', '.join(sorted(entry.scopes))}]",
        *([f"    rate_per_s: {entry.rate_per_s:g}"] if entry.rate_per_s else []),
        "    keys:",
        f"      - {{sha256: {key.sha256}{f', expires: {key.expires}' if key.expires else ''}}}",
    ]
    return "\n".join(lines)


def _last_day(days: int | None) -> date | None:
    """Return the date in `days` days. Raises InvalidSettings if it is out of range."""
    if days is None:
        return None
    try:
        return datetime.now(UTC).date() + timedelta(days=days)
    except OverflowError as exc:
        raise InvalidSettings(f"--days {days}: the date is out of range") from exc


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{program('service')} keys", description=__doc__)
    parser.add_argument("command", choices=["new"], help="make a key")
    parser.add_argument("--client", required=True, metavar="NAME", help="name of the client")
    parser.add_argument(
        "--scopes",
        nargs="+",
        type=Scope,
        required=True,
        metavar="SCOPE",
        help="permissions: " + ", ".join(Scope),
    )
    parser.add_argument("--rate-per-s", type=float, metavar="N", help="rate limit; default: none")
    parser.add_argument("--days", type=int, metavar="N", help="days until expiry; default: never")
    return parser
