"""Who calls, told by keys that are compared in constant time. What a key may use is its limits' matter. No I/O."""

import hashlib
import hmac
import time
from collections.abc import Callable

from bridge_adapter.errors import Forbidden, Unauthenticated
from bridge_adapter.server.limit_store import LimitStore
from bridge_adapter.server.limits import KeyLimits, LocalLimits
from bridge_adapter.server.shared_limits import SharedLimits
from bridge_adapter.settings import ClientKey, Keys


class Caller:
    """One key: which models it opens, and how much it may use."""

    def __init__(self, client: ClientKey | None, limits: KeyLimits) -> None:
        self.name = client.name if client else ""
        self.models = frozenset(client.models) if client and client.models is not None else None
        self.limits = limits
        self._amounts = client and (client.requests_per_minute, client.tokens_per_minute, client.concurrent_streams)

    def check_model(self, *names: str) -> None:
        """`names`: what the table calls the model, and what the request does."""
        if self.models is not None and self.models.isdisjoint(names):
            raise Forbidden(
                f"This API key does not have access to model `{names[-1][:200]}`.",
                param="model",
                code="model_not_allowed",
            )

    def same_limits(self, other: "Caller") -> bool:
        return (self.name, self.models, self._amounts) == (other.name, other.models, other._amounts)


class Keyring:
    """All keys that open this service."""

    def __init__(
        self, keys: Keys, clock: Callable[[], float] = time.monotonic, store: LimitStore | None = None
    ) -> None:
        """store: where the limits are counted; None for this process."""
        self._mode = keys.mode
        self._anybody = Caller(None, LocalLimits(None, clock))
        self._callers: list[tuple[bytes, Caller]] = []
        for client in keys.clients:
            local = LocalLimits(client, clock)
            limits: KeyLimits = local
            if store is not None and _limited(client):
                limits = SharedLimits(client, store, local, clock)
            self._callers.append((bytes.fromhex(client.sha256), Caller(client, limits)))

    def identify(self, key: str | None) -> Caller:
        if self._mode == "open":
            return self._anybody
        if not key:
            raise Unauthenticated(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                code="invalid_api_key",
            )
        if self._mode == "pass_through":
            return self._anybody
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found: Caller | None = None
        for known, caller in self._callers:  # all of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthenticated("Incorrect API key provided.", code="invalid_api_key")
        return found

    def keep_counts_of(self, older: "Keyring") -> None:
        """After a reload: a caller whose entry did not change goes on with what it has used."""
        known = {digest: caller for digest, caller in older._callers}
        self._callers = [
            (digest, held if (held := known.get(digest)) is not None and held.same_limits(caller) else caller)
            for digest, caller in self._callers
        ]


def _limited(client: ClientKey) -> bool:
    return (client.requests_per_minute, client.tokens_per_minute, client.concurrent_streams) != (None, None, None)


def key_of(authorization: str | None) -> str | None:
    """The key in `Bearer KEY` or `Api-Key KEY`."""
    if authorization is None:
        return None
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    return key if scheme.lower() in ("bearer", "api-key") and key and key.isascii() and key.isprintable() else None
