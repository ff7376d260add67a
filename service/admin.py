"""The admin application on its own port: shows and changes the live generations.

Changes are compare-and-set writes of the manifest in the store; every service follows at its next
poll. Loading a night and its first activation need shards on disk: use `python -m offline`.
"""

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from models.catalog.sid import SidSpace
from models.errors import InvalidInput, ManifestConflict
from models.store.contract import NightStore
from models.store.events import check_user_id
from models.store.manifest import Manifest, choose_target, go_to, promote, set_canary
from service import problems
from service.api.middleware import BodyLimit, RequestContext
from service.api.query_names import StrictRoute
from service.auth.api_keys import KeyRing, Scope
from service.auth.key_middleware import ApiKeyMiddleware
from service.explore.explore_routes import explore_router, is_of_page
from service.follow import ModelWatch
from service.problems import problem, problem_responses
from service.server import serve_beside
from service.serving import Serving
from service.settings import EffectiveSettings
from service.workers.crew import FIRST_WORKER, Crew

SCRIPT_REJECTED = "the admin port rejects requests from scripts of web pages"
_SAMPLE = 200  # recently seen users; at least one must have a record in the new layers
logger = logging.getLogger(__name__)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(_Body):
    epoch: Annotated[
        int | None, Field(ge=1, description="An epoch that the store remembers, see /manifest.")
    ] = None


class CanaryShare(Target):
    percent: Annotated[float, Field(gt=0, lt=100)]


_NO_EPOCH = Target()


class Live(BaseModel):
    """The live manifest and its predecessors."""

    held: dict[str, Any] | None  # manifest in the store
    in_use: int | None  # epoch that this process serves; it follows the store at the next poll
    past: list[dict[str, Any]]  # earlier manifests, newest first


class Admin:
    """Reads and changes behind the admin routes.

    Changes raise InvalidInput if they are not possible, ManifestConflict if another writer was
    first.
    """

    def __init__(self, serving: Serving, store: NightStore) -> None:
        self._serving = serving
        self._store = store

    async def live(self) -> Live:
        held, current = await self._store.read_manifest(), self._serving.manifest.current
        return Live(
            held=_to_json(held) if held else None,
            in_use=current.epoch if current else None,
            past=[_to_json(manifest) for manifest in await self._store.past_manifests()],
        )

    async def activate(self, epoch: int | None) -> Live:
        """Make the canary live for all users, or the layers of a past epoch."""
        held, past = await self._read()
        if epoch is None:
            new = promote(held, seen=self._current_epoch)
        else:
            new = go_to(choose_target(held, past, to_epoch=epoch), held, seen=self._current_epoch)
        return await self._swap(held, new)

    async def roll_back(self, epoch: int | None) -> Live:
        held, past = await self._read()
        new = go_to(choose_target(held, past, to_epoch=epoch), held, seen=self._current_epoch)
        return await self._swap(held, new)

    async def set_canary(self, percent: float, epoch: int | None) -> Live:
        held, past = await self._read()
        layers_of = None if epoch is None else choose_target(held, past, to_epoch=epoch)
        new = set_canary(held, percent, layers_of=layers_of, seen=self._current_epoch)
        return await self._swap(held, new)

    async def end_canary(self) -> Live:
        held, _ = await self._read()
        if held.canary is None:
            raise InvalidInput("there is no canary to end")
        return await self._swap(held, go_to(held, held, seen=self._current_epoch))

    async def user(self, user_id: str) -> dict[str, Any]:
        """Return the decoded records, thoughts and history of a user in the live layers."""
        check_user_id(user_id)
        manifest, space = self._serving.manifest.current, self._serving.engine.catalog.space
        layers = manifest.layers_for(user_id) if manifest else ()
        state = await self._store.read_user(user_id, [], space)
        return {
            "user_id": user_id,
            "is_in_canary": bool(manifest and manifest.canary and manifest.canary.takes(user_id)),
            "layers": [
                await self._read_layer(user_id, layer.generation, space) for layer in layers
            ],
            "history": [event._asdict() for event in state.history],
            "has_lost_history": state.has_lost_history,
        }

    async def _read_layer(self, user_id: str, generation: int, space: SidSpace) -> dict[str, Any]:
        state = await self._store.read_user(user_id, [generation], space)
        found: dict[str, Any] = {"generation": generation, "record": None}
        if state.record is None:
            return found | {"why": state.skipped[0] if state.skipped else "no_record"}
        prefixes = [
            {"codes": codes, "path": path, "logprob": logprob}
            for codes, path, logprob in state.record.prefixes
        ]
        texts = await self._store.read_thoughts(user_id, generation)
        record = {"created_at": state.record.created_at, "prefixes": prefixes, "paths": texts}
        return found | {"record": record}

    @property
    def _current_epoch(self) -> int:
        current = self._serving.manifest.current
        return current.epoch if current else 0

    async def _read(self) -> tuple[Manifest, list[Manifest]]:
        held = await self._store.read_manifest()
        if held is None:
            raise InvalidInput("nothing is live yet: see `python -m offline activate`")
        return held, await self._store.past_manifests()

    async def _swap(self, held: Manifest, new: Manifest) -> Live:
        """Replace the manifest, unless the records of its layers seem to have expired.

        Raises InvalidInput if none of the recently seen users has a record in the new layers.
        """
        recent_users = self._serving.users_with_records(_SAMPLE)
        generations = [layer.generation for layer in new.layers]
        counts = [await self._store.count_records(each, recent_users) for each in generations]
        if recent_users and not any(counts):
            raise InvalidInput(
                f"none of {len(recent_users)} recently seen users has a record in generations "
                f"{generations}: expired or deleted; `python -m offline load` restores them"
            )
        await self._store.swap_manifest(held, new)
        logger.warning("the admin port set epoch %d: generations %s", new.epoch, generations)
        await self._serving.manifest.poll()
        return await self.live()


class RejectScripts:
    """Reject requests from scripts of web pages.

    A browser on this machine can reach loopback, on behalf of any open page. The page /explore has
    a check of its own, which lets its own scripts through.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] != "http" or is_of_page(scope["path"])
        if not is_page and any(map(_is_from_script, scope["headers"])):
            refusal = problem(403, SCRIPT_REJECTED, request_id=scope["state"]["request_id"])
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_from_script(header: tuple[bytes, bytes]) -> bool:
    name, value = header
    return name == b"origin" or (name == b"sec-fetch-mode" and value != b"navigate")


def create_admin(
    serving: Serving,
    store: NightStore,
    effective: EffectiveSettings,
    ring: KeyRing | None,
    crew: Crew | None = None,
) -> FastAPI:
    """Build the admin application. With a key ring, every route needs the scope `admin`.

    crew: the other workers, which health and reload include; None for a process alone.
    """
    app = FastAPI(title="Think-Ahead, admin", version="1", docs_url=None, redoc_url=None)
    app.include_router(_routes(Admin(serving, store), serving, effective, crew))
    if serving.settings.explore:
        app.include_router(explore_router(serving, store, has_keys=ring is not None))
    problems.install(app)
    app.add_exception_handler(InvalidInput, _on_rejection)
    app.add_exception_handler(ManifestConflict, _on_rejection)
    app.add_middleware(BodyLimit)
    app.add_middleware(RejectScripts)
    if ring is not None:
        app.add_middleware(
            ApiKeyMiddleware, ring=ring, metrics=serving.metrics, required_scope=Scope.ADMIN
        )
    app.add_middleware(RequestContext, metrics=serving.metrics)
    return app


def admin_beside(
    listener: socket.socket | None,
    open_store: Callable[[], NightStore],
    effective: EffectiveSettings,
    ring: KeyRing | None,
    crew: Crew | None = None,
) -> Callable[[Serving], AbstractAsyncContextManager[object]]:
    """Return a context manager that serves the admin application with its own store.

    Without a listener it does nothing.
    """
    if listener is None:
        return nullcontext

    @asynccontextmanager
    async def beside(serving: Serving) -> AsyncIterator[None]:
        store = open_store()
        try:
            app = create_admin(serving, store, effective, ring, crew)
            async with serve_beside(app, listener):
                yield
        finally:
            await store.close()

    return beside


def _routes(
    admin: Admin, serving: Serving, effective: EffectiveSettings, crew: Crew | None
) -> APIRouter:
    router = APIRouter(
        route_class=StrictRoute, responses=problem_responses({409: "nothing is live"})
    )

    @router.get("/health", summary="Readiness of this process, and its release and epoch")
    async def health() -> dict[str, Any]:
        current = serving.manifest.current
        return {
            "unready": serving.unready,
            "release": serving.engine.label,
            "manifest_epoch": current.epoch if current else None,
            "manifest_refusal": serving.manifest.refusal,
            "warning": serving.foreign_users.warning,
            "model": _describe(serving.model) if serving.model is not None else None,
            "workers": await crew.status() if crew is not None else None,
        }

    @router.get("/settings", summary="Every setting, masked, with the source of its value")
    async def settings() -> dict[str, Any]:
        return effective.describe()

    @router.get("/manifest", summary="The live manifest and earlier ones")
    async def manifest() -> Live:
        return await admin.live()

    @router.post("/activate", summary="Make the canary or a past epoch live for all users")
    async def activate(target: Target = _NO_EPOCH) -> Live:
        return await admin.activate(target.epoch)

    @router.post("/rollback", summary="End a canary, or go back one night or to an epoch")
    async def rollback(target: Target = _NO_EPOCH) -> Live:
        return await admin.roll_back(target.epoch)

    @router.post(
        "/canary", summary="Set the canary's share, or start one with a past epoch's layers"
    )
    async def canary(share: CanaryShare) -> Live:
        return await admin.set_canary(share.percent, share.epoch)

    @router.delete("/canary", summary="End the canary")
    async def end_canary() -> Live:
        return await admin.end_canary()

    @router.post("/reload", summary="Reload the release directory")
    async def reload() -> dict[str, Any]:
        if crew is None:
            return {"outcome": await serving.reload(), "release": serving.engine.label}
        outcomes = await crew.reload()
        own = outcomes[FIRST_WORKER]
        return {"outcome": own, "release": serving.engine.label, "workers": outcomes}

    @router.get("/users/{user_id:path}", summary="Records, thoughts and history of a user, decoded")
    async def user(user_id: str) -> dict[str, Any]:
        return await admin.user(user_id)

    return router


def _describe(watch: ModelWatch) -> dict[str, Any]:
    """Return the model pointer in use as JSON types, and why a newer one is refused."""
    pointer = watch.pointer
    return {
        "pointer": pointer.model_dump(mode="json", exclude_none=True) if pointer else None,
        "refusal": watch.refusal.why if watch.refusal is not None else None,
    }


async def _on_rejection(request: Request, exc: Exception) -> Response:
    return problem(409, str(exc), request_id=request.state.request_id)


def _to_json(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json", exclude_none=True)
