"""Model name or path id -> its servers. Knows the configuration and which key is used where, not how to call."""

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bridge_adapter.errors import Unauthenticated, model_not_found
from bridge_adapter.settings import DEPLOYMENT, AdapterSettings, ModelEntry, SettingsError, Target
from bridge_adapter.upstream.pool import Upstream, UpstreamPool

_DEPLOYMENT_ID = re.compile(r"[A-Za-z0-9]{4,32}")
_REMEMBERED_DEPLOYMENTS = 1000


@dataclass(frozen=True, slots=True)
class Route:
    """One server and its key. `model`: its name in the answer. `callers_key`: the authorization is the caller's own."""

    upstream: Upstream
    model: str
    authorization: str | None
    callers_key: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """The model that a request asks for. `callers`: the authorization to use where a server has no key of its own."""

    pool: UpstreamPool
    model: str
    callers: str | None = None

    def route(self, upstream: Upstream) -> Route:
        if upstream.authorization is None and self.callers is not None:
            return Route(upstream, self.model, self.callers, callers_key=True)
        return Route(upstream, self.model, upstream.authorization)


class Router:
    """The models table, and the bridge's form of path, which names a deployment."""

    def __init__(self, settings: AdapterSettings) -> None:
        self._form = settings.path_form
        self._mode = settings.keys.mode
        self._by_name: dict[str, UpstreamPool] = {}
        for name, model in settings.models.items():
            pool = _table_pool(name, model)
            for known in (name, *model.aliases):
                self._by_name[known] = pool
        self._hosted: OrderedDict[str, UpstreamPool] = OrderedDict()
        self._hosted_key = _authorization("path_form", "Api-Key", self._form.key_env, self._form.key_file)

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    def table_name(self, name: str) -> str:
        """The name in the models table of a name or alias."""
        return self._by_name[name].name

    @property
    def pools(self) -> list[UpstreamPool]:
        return list(dict.fromkeys(self._by_name.values()))

    @property
    def upstreams(self) -> list[Upstream]:
        return [upstream for pool in self.pools for upstream in pool.upstreams]

    def by_name(self, name: str, caller_key: str | None) -> Destination:
        pool = self._by_name.get(name)
        if pool is None:
            raise model_not_found(name)
        return Destination(pool, name, f"Api-Key {caller_key}" if self._mode == "pass_through" else None)

    def by_path(self, model_id: str, caller_key: str | None) -> Destination:
        if not self._form.enabled:
            raise model_not_found(model_id)
        if model_id in self._by_name:
            return self.by_name(model_id, caller_key)
        # The id becomes part of a host name, so only letters and digits are allowed.
        if not _DEPLOYMENT_ID.fullmatch(model_id):
            raise model_not_found(model_id)
        if self._hosted_key is not None:
            return Destination(self._deployment(model_id), model_id)
        if self._mode == "list":
            raise model_not_found(model_id)
        if not caller_key:
            raise Unauthenticated(
                "You didn't provide an API key. Give the key of your Baseten workspace as the client's API key.",
                code="invalid_api_key",
            )
        return Destination(self._deployment(model_id), model_id, f"Api-Key {caller_key}")

    def _deployment(self, model_id: str) -> UpstreamPool:
        known = self._hosted.get(model_id)
        if known is None:
            upstream = Upstream(
                name=DEPLOYMENT,
                url=self._form.url.replace("{model_id}", model_id),
                dialect=self._form.dialect,
                timeouts=self._form.timeouts,
                retries=self._form.retries,
                model=model_id,
                authorization=self._hosted_key,
            )
            known = self._hosted[model_id] = UpstreamPool(DEPLOYMENT, [upstream])
            if len(self._hosted) > _REMEMBERED_DEPLOYMENTS:
                self._hosted.popitem(last=False)
        return known


def request_url(url: str) -> str:
    """Where a model's requests go. A Truss server's base URL means its predict route.

    One that ends in `/v1` is a base URL of OpenAI's API; a URL with any other path is taken as it is.
    """
    path = urlsplit(url).path.rstrip("/")
    if not path:
        return url.rstrip("/") + "/v1/models/model:predict"
    return url.rstrip("/") + "/chat/completions" if path.endswith("/v1") else url


def _authorization(where: str, scheme: str, key_env: str | None, key_file: str | None) -> str | None:
    key = read_secret(where, key_env, key_file)
    return f"{scheme} {key}" if key else None


def _table_pool(name: str, model: ModelEntry) -> UpstreamPool:
    targets: Sequence[ModelEntry | Target] = model.upstreams or (model,)
    upstreams = [_table_upstream(name, model, target, number) for number, target in enumerate(targets)]
    return UpstreamPool(name, upstreams, model.price, model.fallbacks)


def _table_upstream(name: str, model: ModelEntry, target: ModelEntry | Target, number: int) -> Upstream:
    url = request_url(target.url or (target.baseten.url() if target.baseten else ""))
    native = urlsplit(url).path.endswith("/chat/completions")
    where = f"models.{name}" if target is model else f"models.{name}.upstreams[{number}]"
    upstream = Upstream(
        name=name,
        url=url,
        dialect="openai" if native and target.dialect == "auto" else target.dialect,
        timeouts=model.timeouts,
        retries=model.retries,
        model=target.upstream_model or model.upstream_model or name,
        authorization=_authorization(where, target.key_scheme, target.key_env, target.key_file),
        concurrency=target.concurrency,
    )
    if isinstance(target, Target):
        upstream.target = target.name or str(number)
        upstream.weight, upstream.priority = target.weight, target.priority
    return upstream


def read_secret(where: str, key_env: str | None, key_file: str | None) -> str | None:
    """The value of an upstream key, or SettingsError naming the setting; never the value."""
    if key_env is not None:
        value = os.environ.get(key_env, "").strip()
    elif key_file is not None:
        try:
            value = Path(key_file).read_text("utf-8").strip()
        except OSError as error:
            raise SettingsError(f"{where}.key_file: cannot read {key_file}: {error.strerror}") from error
    else:
        return None
    if not value:
        source = f"environment variable {key_env}" if key_env else f"file {key_file}"
        raise SettingsError(f"{where}: the key is empty: {source}")
    return value
