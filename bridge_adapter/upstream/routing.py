"""Model name or path id -> Route. Knows what is configured and who may be called with which key, not how to call."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bridge_adapter.configuration import read_secret
from bridge_adapter.errors import Unauthenticated, model_not_found
from bridge_adapter.settings import Dialect, Model, Price, Retries, Settings, Timeouts

_DEPLOYMENT_ID = re.compile(r"[A-Za-z0-9]{4,32}")
_REMEMBERED_DEPLOYMENTS = 1000


@dataclass(slots=True)
class Upstream:
    """One Truss. `learned` and `in_flight` change as it is used; everything else is configuration."""

    name: str
    url: str
    dialect: Dialect
    timeouts: Timeouts
    retries: Retries
    model: str
    authorization: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=dict)
    drop_unknown: bool = False
    concurrency: int | None = None
    price: Price = field(default_factory=Price)
    learned: Dialect = "auto"
    in_flight: int = 0

    @property
    def speaks(self) -> Dialect:
        """The dialect to shape a request for: the configured one, or else the one heard last."""
        return self.learned if self.dialect == "auto" else self.dialect


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request goes. `model` is what the answer says; `callers_key`: the caller's own key opens the door."""

    upstream: Upstream
    model: str
    authorization: str | None
    callers_key: bool = False


class Router:
    """The models table, and the bridge's own form in which the path names a deployment."""

    def __init__(self, settings: Settings) -> None:
        self._form = settings.path_form
        self._mode = settings.keys.mode
        self._by_name: dict[str, Upstream] = {}
        for name, model in settings.models.items():
            upstream = _table_upstream(name, model)
            for known in (name, *model.aliases):
                self._by_name[known] = upstream
        self._hosted: OrderedDict[str, Upstream] = OrderedDict()
        self._hosted_key = _authorization("path_form", "Api-Key", self._form.key_env, self._form.key_file)

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    def table_name(self, name: str) -> str:
        """The name in the models table of a name or alias."""
        return self._by_name[name].name

    @property
    def upstreams(self) -> list[Upstream]:
        return list({id(upstream): upstream for upstream in self._by_name.values()}.values())

    def by_name(self, name: str, caller_key: str | None) -> Route:
        upstream = self._by_name.get(name)
        if upstream is None:
            raise model_not_found(name)
        if upstream.authorization is None and self._mode == "pass_through":
            return Route(upstream, name, f"Api-Key {caller_key}", callers_key=True)
        return Route(upstream, name, upstream.authorization)

    def by_path(self, model_id: str, caller_key: str | None) -> Route:
        if not self._form.enabled:
            raise model_not_found(model_id)
        if model_id in self._by_name:
            return self.by_name(model_id, caller_key)
        # The id becomes part of a host name: nothing but letters and digits may reach it.
        if not _DEPLOYMENT_ID.fullmatch(model_id):
            raise model_not_found(model_id)
        if self._hosted_key is not None:
            return Route(self._deployment(model_id), model_id, self._hosted_key)
        if self._mode == "list":
            raise model_not_found(model_id)
        if not caller_key:
            raise Unauthenticated(
                "You didn't provide an API key. Give the key of your Baseten workspace as the client's API key.",
                code="invalid_api_key",
            )
        return Route(self._deployment(model_id), model_id, f"Api-Key {caller_key}", callers_key=True)

    def _deployment(self, model_id: str) -> Upstream:
        known = self._hosted.get(model_id)
        if known is None:
            known = Upstream(
                name="path_form",
                url=self._form.url.replace("{model_id}", model_id),
                dialect=self._form.dialect,
                timeouts=self._form.timeouts,
                retries=self._form.retries,
                model=model_id,
            )
            self._hosted[model_id] = known
            if len(self._hosted) > _REMEMBERED_DEPLOYMENTS:
                self._hosted.popitem(last=False)
        return known


def predict_url(url: str) -> str:
    """A Truss server's base URL means its predict route; a URL with a path of its own is taken as it is."""
    return url.rstrip("/") + "/v1/models/model:predict" if urlsplit(url).path in ("", "/") else url


def _authorization(where: str, scheme: str, key_env: str | None, key_file: str | None) -> str | None:
    key = read_secret(where, key_env, key_file)
    return f"{scheme} {key}" if key else None


def _table_upstream(name: str, model: Model) -> Upstream:
    url = predict_url(model.url) if model.url is not None else model.baseten.url() if model.baseten else ""
    native = urlsplit(url).path.endswith("/chat/completions")
    return Upstream(
        name=name,
        url=url,
        dialect="openai" if native and model.dialect == "auto" else model.dialect,
        timeouts=model.timeouts,
        retries=model.retries,
        model=model.upstream_model or name,
        authorization=_authorization(f"models.{name}", model.key_scheme, model.key_env, model.key_file),
        defaults=model.defaults,
        caps=model.caps,
        drop_unknown=model.unknown_fields == "drop",
        concurrency=model.concurrency,
        price=model.price,
    )
