"""What all requests of a process share: routes, keys, the upstream client, metrics; and whether new ones are taken."""

from collections.abc import Mapping

import msgspec

from bridge_adapter.errors import Unavailable
from bridge_adapter.openai_api.policy import Policy, default_fields
from bridge_adapter.server.auth import Keyring
from bridge_adapter.server.limit_store import LimitStore
from bridge_adapter.server.trusted_hosts import TrustedHosts
from bridge_adapter.settings import AdapterSettings
from bridge_adapter.telemetry.observer import Observer
from bridge_adapter.upstream.client import TrussClient
from bridge_adapter.upstream.routing import Router


class AdapterState:
    """One per process. `reload` swaps routes and keys between requests; running ones keep what they began with."""

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings = settings
        self.trusted_hosts = TrustedHosts(settings)
        self.router = Router(settings)
        self.policies = _policies(settings)
        self.store = LimitStore(settings.keys.store) if settings.keys.store is not None else None
        self.keyring = Keyring(settings.keys, store=self.store)
        self.client = TrussClient(settings.server)
        self.observer = Observer(settings.observe)
        self.in_flight = 0
        self.draining = False

    def reload(self, settings: AdapterSettings) -> None:
        """Models, path form and keys change at once; their store, `server` and `observe` only at the next start."""
        router, policies = Router(settings), _policies(settings)
        keyring = Keyring(settings.keys, store=self.store)
        keyring.keep_counts_of(self.keyring)
        kept = msgspec.structs.replace(settings, server=self.settings.server, observe=self.settings.observe)
        self.settings, self.router, self.policies, self.keyring = kept, router, policies, keyring

    def check_open(self) -> None:
        if self.draining:
            raise Unavailable(
                "This server is shutting down. Please try again.",
                retry_after=1.0,
                should_retry=True,
                headers={"connection": "close"},
            )


def _policies(settings: AdapterSettings) -> Mapping[str, Policy]:
    """Of the models in the table. A deployment that only the path names has none."""
    return {
        name: Policy(
            defaults=default_fields(model.defaults),
            caps=model.caps,
            drop_unknown=model.unknown_fields == "drop",
            max_stop_strings=model.max_stop_strings,
            clamp_to_context=model.max_tokens_over_context == "clamp",
        )
        for name, model in settings.models.items()
    }
