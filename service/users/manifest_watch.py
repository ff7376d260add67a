"""Follow the manifest in the store: it names the generations that this process serves from.

The last good manifest stays in use while the store is away. An older manifest, or one of another
SID space, never replaces it. Knows nothing of records or users.
"""

import logging

from models.errors import InvalidRecord, StoreUnavailable
from models.store.contract import UserStore
from models.store.manifest import Manifest
from service.telemetry.metrics import Metrics
from service.users.breaker import Breaker

logger = logging.getLogger(__name__)


class ManifestWatch:
    """Manifest in use, and the reason for which a newer one is refused."""

    def __init__(
        self, store: UserStore, *, fingerprint: int, breaker: Breaker, metrics: Metrics
    ) -> None:
        self.current: Manifest | None = None
        self.refusal: str | None = None  # "garbage", "fingerprint" or "epoch"; None: none refused
        self._is_away = False
        self._store = store
        self._fingerprint = fingerprint
        self._breaker = breaker
        self._metrics = metrics

    async def poll(self) -> bool:
        """Read the manifest once, and tell the breaker. Return True if the store answered.

        These polls are the probes that close an open breaker.
        """
        try:
            manifest = await self._store.read_manifest()
        except StoreUnavailable as exc:
            self._breaker.record_failure()
            if self._breaker.is_open and not self._is_away:
                self._is_away = True
                logger.warning("the store is away: %s", exc)
            return False
        except InvalidRecord as exc:
            self._refuse("garbage", str(exc))
        else:
            self._consider(manifest)
        self._breaker.record_probe()
        if self._is_away and not self._breaker.is_open:
            self._is_away = False
            logger.info("the store is back")
        return True

    def _consider(self, manifest: Manifest | None) -> None:
        if manifest is None or manifest == self.current:
            return
        if manifest.fingerprint != self._fingerprint:
            self._refuse("fingerprint", f"epoch {manifest.epoch} is of another SID space")
        elif self.current and manifest.epoch <= self.current.epoch:
            self._refuse("epoch", f"epoch {manifest.epoch}, in use is {self.current.epoch}")
        else:
            self.current, self.refusal = manifest, None
            self._metrics.set_manifest_epoch(manifest.epoch)
            logger.info("manifest epoch %d is in use", manifest.epoch)

    def _refuse(self, reason: str, detail: str) -> None:
        self._metrics.count_manifest_refusal(reason)
        if self.refusal != reason:
            logger.warning("manifest refused (%s): %s", reason, detail)
        self.refusal = reason
