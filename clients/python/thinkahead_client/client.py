"""Client of the service for backends: `Client` for threads, `AsyncClient` for asyncio.

    with Client("http://recommend:8000", Options(api_key=KEY, timeout_s=0.1)) as client:
        for item in client.recommend("A2CG5Y82ZZNY6W", n=5).items:
            ...
        client.append("A2CG5Y82ZZNY6W", "B004OHQR1Q")

Every call has a deadline, which is sent to the service. Within the deadline, a failed call is
retried if a retry is safe. Errors are subclasses of `ClientError` (see `errors`).
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack

import httpx

from thinkahead_client import calls
from thinkahead_client.answers import (
    Accepted,
    Recommendation,
    RecommendationBatch,
    TakenBatch,
    TakenEvent,
    TakenItems,
)
from thinkahead_client.calls import Answer, Call, NewEvent, NewItem, PagedParams, RecommendParams
from thinkahead_client.errors import (
    Busy,
    ClientError,
    DeadlineExceeded,
    InvalidArgument,
    Unreachable,
)
from thinkahead_client.ids import Id
from thinkahead_client.retries import Hedge, first_answer, pause_s

_TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_MAX_TIMEOUT_MS = 60_000  # maximum of the service
_CLOSED = "this client is closed"

Result = TypeVar("Result")
P = ParamSpec("P")


@dataclass(frozen=True)
class Options:
    """Options of a client."""

    api_key: str | None = field(default=None, repr=False)  # sent as a bearer token
    timeout_s: float = 1.0  # deadline of a call with all its attempts; a call may override it
    network_ms: int = 5  # of the deadline, for the network; the service gets the rest
    retries: int = 2  # maximum number of attempts after the first
    # Upper bound of the random pause before the first retry; doubles with each retry.
    backoff_s: float = 0.02
    backoff_cap_s: float = 0.5  # upper bound of every pause
    # 0.95: send a recommendation request again when the first takes longer than 95% of the recent
    # ones, use the first answer and cancel the other request. None: never.
    hedge_quantile: float | None = None
    max_connections: int = 100  # further calls wait for a free connection, within their deadline
    connect_timeout_s: float = 0.25  # for one connection
    # Under overload the service rejects `sheddable` first and `critical` last.
    criticality: Literal["critical", "default", "sheddable"] | None = None
    verify: ssl.SSLContext | bool = True  # for https: as in httpx

    def __post_init__(self) -> None:
        """Validate the values. Raises InvalidArgument."""
        for name in ("timeout_s", "connect_timeout_s", "max_connections"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name}: {getattr(self, name)}, expected more than 0")
        for name in ("network_ms", "retries", "backoff_s", "backoff_cap_s"):
            if not getattr(self, name) >= 0:
                raise InvalidArgument(f"{name}: {getattr(self, name)}, expected 0 or more")
        if self.hedge_quantile is not None and not 0.5 <= self.hedge_quantile < 1:
            raise InvalidArgument(f"hedge_quantile: {self.hedge_quantile}, expected .5 to below 1")


class AsyncClient:
    """Client for one asyncio event loop; all tasks of the loop may share it.

    Every call raises ClientError if it fails.
    """

    def __init__(self, url: str, options: Options | None = None) -> None:
        """Store the URL; the first call connects. Raises InvalidArgument for an invalid URL."""
        self._options = options or Options()
        self._random = SystemRandom()
        self._hedge = Hedge(self._options.hedge_quantile) if self._options.hedge_quantile else None
        self._http = _open_http(url, self._options)

    async def recommend(
        self, user_id: Id, *, timeout_s: float | None = None, **params: Unpack[PagedParams]
    ) -> Recommendation:
        """Recommend items to a user, best first. An unknown user gets non-personal items."""
        return await self._call(calls.recommend(user_id, params), timeout_s)

    async def recommend_for_history(
        self,
        history: Sequence[Id],
        *,
        timeout_s: float | None = None,
        **params: Unpack[PagedParams],
    ) -> Recommendation:
        """Recommend items for a history that the caller keeps: item ids, oldest first."""
        return await self._call(calls.for_history(history, params), timeout_s)

    async def recommend_in_session(
        self,
        user_id: Id,
        session: Sequence[Id],
        *,
        timeout_s: float | None = None,
        **params: Unpack[PagedParams],
    ) -> Recommendation:
        """Recommend items to a user after interactions with the items of `session`.

        The session is not stored.
        """
        return await self._call(calls.in_session(user_id, session, params), timeout_s)

    async def recommend_batch(
        self,
        user_ids: Sequence[Id],
        *,
        timeout_s: float | None = None,
        **params: Unpack[RecommendParams],
    ) -> RecommendationBatch:
        """Recommend items to up to 100 users. Each has its own status and can fail alone."""
        return await self._call(calls.batch(user_ids, params), timeout_s)

    async def append(
        self,
        user_id: Id,
        item_id: Id,
        *,
        timestamp: int | None = None,
        event_id: Id | None = None,
        type: str | None = None,  # noqa: A002  # the name of the field
        value: float | None = None,
        timeout_s: float | None = None,
    ) -> TakenEvent:
        """Append an interaction of the user; the next recommendation uses it.

        `timestamp`: unix seconds; None: now. An event with a repeated `event_id` adds nothing. By
        default the call generates an id, which all of its attempts use.
        """
        made = {} if event_id is None else {"event_id": event_id}
        event = NewEvent(user_id, item_id, timestamp, type=type, value=value, **made)
        return await self._call(calls.append(event), timeout_s)

    async def append_batch(
        self, events: Sequence[NewEvent], *, timeout_s: float | None = None
    ) -> TakenBatch:
        """Append events of many users, oldest first. Each can fail alone."""
        return await self._call(calls.append_batch(events), timeout_s)

    async def offer_items(
        self, items: Sequence[NewItem], *, timeout_s: float | None = None
    ) -> TakenItems:
        """Offer new items, or withdraw items. Each can fail alone.

        A learner gives them their place in the catalog some seconds later.
        """
        return await self._call(calls.offer_items(items), timeout_s)

    async def think(
        self, user_id: Id, instruction: str | None = None, *, timeout_s: float | None = None
    ) -> Accepted:
        """Request a new thought about the user; answers use it some seconds later."""
        return await self._call(calls.think(user_id, instruction), timeout_s)

    async def delete(self, user_id: Id, *, timeout_s: float | None = None) -> Accepted:
        """Erase all data of the user permanently."""
        return await self._call(calls.delete(user_id), timeout_s)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, call: Call[Answer], timeout_s: float | None) -> Answer:
        """Make up to `retries` + 1 attempts within one deadline. Raises ClientError."""
        given_s = self._options.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + given_s
        failure: ClientError | None = None
        try:
            async with asyncio.timeout(given_s):
                for attempt in range(self._options.retries + 1):
                    try:
                        return await self._attempt(call, deadline)
                    except ClientError as exc:
                        failure = exc
                        if not (call.is_idempotent or isinstance(exc, Busy)):
                            raise  # the service may have processed it
                        await self._pause(exc, attempt, deadline)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{call}: no answer in {given_s:g} s") from (failure or exc)
        raise AssertionError("the last attempt returns or raises")

    async def _pause(self, failure: ClientError, attempt: int, deadline: float) -> None:
        """Sleep until the next attempt. Raises `failure` if no attempt remains or helps."""
        options = self._options
        wait_s = pause_s(
            failure,
            attempt,
            base_s=options.backoff_s,
            cap_s=options.backoff_cap_s,
            rng=self._random,
        )
        is_last = attempt == options.retries
        if wait_s is None or is_last or time.monotonic() + wait_s >= deadline:
            raise failure
        await asyncio.sleep(wait_s)

    async def _attempt(self, call: Call[Answer], deadline: float) -> Answer:
        hedge = self._hedge
        if hedge is None or not call.may_hedge:
            return await self._send(call, deadline)
        started, delay_s = time.monotonic(), hedge.delay_s()
        try:
            if delay_s is None:
                answer = await self._send(call, deadline)
            else:
                answer = await first_answer(
                    lambda: self._send(call, deadline), delay_s=delay_s, on_second=hedge.spend
                )
        except asyncio.CancelledError:  # by the deadline: the true time is longer
            hedge.record(time.monotonic() - started)
            raise
        hedge.record(time.monotonic() - started)
        return answer

    async def _send(self, call: Call[Answer], deadline: float) -> Answer:
        """Send one request. Raises Unreachable, Refused or BadAnswer."""
        left_ms = int(1000 * (deadline - time.monotonic())) - self._options.network_ms
        headers = {_TIMEOUT_HEADER: str(min(max(left_ms, 1), _MAX_TIMEOUT_MS))}
        try:
            response = await self._http.request(
                call.method, call.path, params=call.params, json=call.body, headers=headers
            )
        except httpx.HTTPError as exc:
            reason = " ".join(f"{type(exc).__name__} {exc}".split())
            raise Unreachable(f"{call} of {self._http.base_url}: {reason}") from exc
        return call.read(response)


class Client:
    """Client for code without asyncio; all threads may share it.

    Calls run on an event loop in a background thread, so that hedges can be cancelled and deadlines
    hold. Create the client after a fork, not before. Every call raises ClientError if it fails.
    """

    def __init__(self, url: str, options: Options | None = None) -> None:
        """Store the URL; the first call connects. Raises InvalidArgument for an invalid URL."""
        self._client = AsyncClient(url, options)
        self._is_closed, self._closing = False, threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="think-ahead-client", daemon=True
        )
        self._thread.start()

    def recommend(
        self, user_id: Id, *, timeout_s: float | None = None, **params: Unpack[PagedParams]
    ) -> Recommendation:
        """Recommend items to a user, best first. An unknown user gets non-personal items."""
        return self._run(self._client.recommend, user_id, timeout_s=timeout_s, **params)

    def recommend_for_history(
        self,
        history: Sequence[Id],
        *,
        timeout_s: float | None = None,
        **params: Unpack[PagedParams],
    ) -> Recommendation:
        """Recommend items for a history that the caller keeps: item ids, oldest first."""
        return self._run(self._client.recommend_for_history, history, timeout_s=timeout_s, **params)

    def recommend_in_session(
        self,
        user_id: Id,
        session: Sequence[Id],
        *,
        timeout_s: float | None = None,
        **params: Unpack[PagedParams],
    ) -> Recommendation:
        """Recommend items to a user after interactions with the items of `session`.

        The session is not stored.
        """
        return self._run(
            self._client.recommend_in_session, user_id, session, timeout_s=timeout_s, **params
        )

    def recommend_batch(
        self,
        user_ids: Sequence[Id],
        *,
        timeout_s: float | None = None,
        **params: Unpack[RecommendParams],
    ) -> RecommendationBatch:
        """Recommend items to up to 100 users. Each has its own status and can fail alone."""
        return self._run(self._client.recommend_batch, user_ids, timeout_s=timeout_s, **params)

    def append(
        self,
        user_id: Id,
        item_id: Id,
        *,
        timestamp: int | None = None,
        event_id: Id | None = None,
        type: str | None = None,  # noqa: A002  # the name of the field
        value: float | None = None,
        timeout_s: float | None = None,
    ) -> TakenEvent:
        """Append an interaction of the user; see `AsyncClient.append`."""
        return self._run(
            self._client.append,
            user_id,
            item_id,
            timestamp=timestamp,
            event_id=event_id,
            type=type,
            value=value,
            timeout_s=timeout_s,
        )

    def append_batch(
        self, events: Sequence[NewEvent], *, timeout_s: float | None = None
    ) -> TakenBatch:
        """Append events of many users, oldest first. Each can fail alone."""
        return self._run(self._client.append_batch, events, timeout_s=timeout_s)

    def offer_items(
        self, items: Sequence[NewItem], *, timeout_s: float | None = None
    ) -> TakenItems:
        """Offer new items, or withdraw items. Each can fail alone."""
        return self._run(self._client.offer_items, items, timeout_s=timeout_s)

    def think(
        self, user_id: Id, instruction: str | None = None, *, timeout_s: float | None = None
    ) -> Accepted:
        """Request a new thought about the user; answers use it some seconds later."""
        return self._run(self._client.think, user_id, instruction, timeout_s=timeout_s)

    def delete(self, user_id: Id, *, timeout_s: float | None = None) -> Accepted:
        """Erase all data of the user permanently."""
        return self._run(self._client.delete, user_id, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the client. Running calls of other threads raise Unreachable."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._cancel_and_close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self,
        method: Callable[P, Coroutine[Any, Any, Result]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Result:
        with self._closing:
            if self._is_closed:
                raise Unreachable(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(method(*args, **kwargs), self._loop)
        try:
            return future.result()
        except futures.CancelledError as exc:
            raise Unreachable(_CLOSED) from exc
        except BaseException:  # mainly Ctrl-C
            future.cancel()
            raise

    async def _cancel_and_close(self) -> None:
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for call in pending:
            call.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._client.close()


def _open_http(url: str, options: Options) -> httpx.AsyncClient:
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"URL of the service: {url!r}, expected http:// or https://")
    headers = {"Accept": "application/json"}
    if options.api_key is not None:
        headers["Authorization"] = f"Bearer {options.api_key}"
    if options.criticality is not None:
        headers["X-Criticality"] = options.criticality
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=httpx.Timeout(None, connect=options.connect_timeout_s),
        limits=httpx.Limits(
            max_connections=options.max_connections,
            max_keepalive_connections=options.max_connections,
        ),
        verify=options.verify,
    )
