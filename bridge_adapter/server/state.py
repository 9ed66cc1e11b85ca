"""What all requests of a process share: routes, keys, the upstream client, metrics; and whether new ones are taken."""

import msgspec

from bridge_adapter.errors import RateLimited, Unavailable
from bridge_adapter.keys import Keyring
from bridge_adapter.observe import Observer
from bridge_adapter.routing import Router, Upstream
from bridge_adapter.settings import Settings
from bridge_adapter.upstream import TrussClient


class Service:
    """One per process. `reload` swaps routes and keys between requests; running ones keep what they began with."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.trusted_hosts = settings.trusted_hosts
        self.router = Router(settings)
        self.keyring = Keyring(settings.keys)
        self.client = TrussClient(settings.server)
        self.observer = Observer(settings.observe)
        self.in_flight = 0
        self.draining = False

    def reload(self, settings: Settings) -> None:
        """Models, path form and keys change at once; `server` and `observe` only at the next start."""
        router, keyring = Router(settings), Keyring(settings.keys)
        keyring.keep_counts_of(self.keyring)
        kept = msgspec.structs.replace(settings, server=self.settings.server, observe=self.settings.observe)
        self.settings, self.router, self.keyring = kept, router, keyring

    def check_open(self) -> None:
        if self.draining:
            raise Unavailable(
                "This server is shutting down. Please try again.",
                retry_after=1.0,
                should_retry=True,
                headers={"connection": "close"},
            )


class Place:
    """`with` around one request: a place at the upstream, kept until its answer has ended."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def __enter__(self) -> None:
        limit = self._upstream.concurrency
        if limit is not None and self._upstream.in_flight >= limit:
            raise RateLimited(
                f"The model is at its limit of {limit} concurrent requests. Please try again.", retry_after=1.0
            )
        self._upstream.in_flight += 1

    def __exit__(self, *_: object) -> None:
        self._upstream.in_flight -= 1
