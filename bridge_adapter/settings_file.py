"""Settings file + environment -> AdapterSettings; every mistake names the setting that is wrong. Opens no socket."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

from bridge_adapter.errors import APIError
from bridge_adapter.openai_api.policy import DEFAULTABLE, default_fields
from bridge_adapter.settings import DEPLOYMENT, AdapterSettings, ModelEntry, SettingsError, Store, Target

_SINGLE_VALUES = ("server", "observe", "path_form", "keys")
_LISTS = ("cors_origins", "trusted_hosts")
_CAPPED = ("max_tokens", "n")


def load_settings(path: str | Path | None, environment: Mapping[str, str] = os.environ) -> AdapterSettings:
    """The file, overridden by BRIDGE_SERVER_PORT and its like; without a file, BRIDGE_UPSTREAM_URL and BRIDGE_MODEL."""
    tree = _read(path) if path is not None else _from_environment(environment)
    _override(tree, environment)
    try:
        settings = msgspec.convert(tree, AdapterSettings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from error
    check_settings(settings)
    return settings


def _read(path: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise SettingsError(f"{path} must hold a mapping with `models:`")
    return tree


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    url = environment.get("BRIDGE_UPSTREAM_URL")
    return {"models": {environment.get("BRIDGE_MODEL", "default"): {"url": url}} if url else {}}


def _override(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    """BRIDGE_<PART>_<NAME> sets one plain value of a part: BRIDGE_SERVER_PORT=9000, BRIDGE_OBSERVE_ACCESS_LOG=json."""
    for part in _SINGLE_VALUES:
        for field in msgspec.structs.fields(_part_type(part)):
            value = environment.get(f"BRIDGE_{part}_{field.encode_name}".upper())
            if value is not None:
                held = tree.setdefault(part, {})
                if not isinstance(held, dict):
                    raise SettingsError(f"`{part}` must be a mapping")
                held[field.encode_name] = value.split(",") if field.encode_name in _LISTS else value


def _part_type(part: str) -> type[msgspec.Struct]:
    kind = next(field.type for field in msgspec.structs.fields(AdapterSettings) if field.name == part)
    return kind  # type: ignore[no-any-return]


def check_settings(settings: AdapterSettings) -> None:
    """The rules that types alone cannot express. Raises SettingsError."""
    names: dict[str, str] = {}
    for name, model in settings.models.items():
        if name == DEPLOYMENT:
            raise SettingsError(f"models.{name}: this name stands for the deployments of the path form")
        where = f"models.{name}"
        for known in (name, *model.aliases):
            if known in names:
                raise SettingsError(f"{where}: the name `{known}` is taken by models.{names[known]}")
            names[known] = name
        _check_model(where, model)
    for name, model in settings.models.items():
        for fallback in model.fallbacks:
            if fallback not in names or names[fallback] == name:
                raise SettingsError(f"models.{name}.fallbacks: `{fallback}` is not another model of the table")
    _check_clients(settings, names)
    if "{model_id}" not in settings.path_form.url:
        raise SettingsError("path_form.url must contain {model_id}")
    _check_url("path_form.url", settings.path_form.url)


def _check_model(where: str, model: ModelEntry) -> None:
    if (model.url is not None) + (model.baseten is not None) + bool(model.upstreams) != 1:
        raise SettingsError(f"{where}: give exactly one of `url`, `baseten` and `upstreams`")
    if model.upstreams:
        _check_upstreams(where, model)
    else:
        _check_target(where, model)
    if model.max_tokens_over_context == "clamp":
        _check_clamp(where, model)
    for name in model.caps:
        if name not in _CAPPED:
            raise SettingsError(f"{where}.caps.{name}: only {' and '.join(_CAPPED)} can be capped")
    for name in model.defaults:
        if name not in DEFAULTABLE.checks:
            raise SettingsError(f"{where}.defaults.{name}: not a parameter that can have a default")
    try:
        limit = default_fields(model.defaults).get("max_tokens", 0)
    except APIError as error:
        raise SettingsError(f"{where}.defaults.{error.param}: {error.message}") from error
    if limit > model.caps.get("max_tokens", limit):
        raise SettingsError(f"{where}.defaults: the default of max_tokens is above its cap")


def _check_clamp(where: str, model: ModelEntry) -> None:
    targets: Sequence[ModelEntry | Target] = model.upstreams or (model,)
    if any(target.dialect != "predict" for target in targets):
        raise SettingsError(
            f"{where}.max_tokens_over_context: only a Truss of this project can lower max_tokens, so that `clamp` "
            "needs `dialect: predict`; servers of OpenAI's API have settings of their own for it"
        )


def _check_upstreams(where: str, model: ModelEntry) -> None:
    for field in ("dialect", "key_env", "key_file", "key_scheme", "concurrency"):
        if getattr(model, field) != getattr(Target(), field):
            raise SettingsError(f"{where}.{field}: with `upstreams`, give it to each of them")
    names: set[str] = set()
    for number, target in enumerate(model.upstreams):
        at = f"{where}.upstreams[{number}]"
        if (target.url is None) == (target.baseten is None):
            raise SettingsError(f"{at}: give exactly one of `url` and `baseten`")
        _check_target(at, target)
        name = target.name or str(number)
        if name in names:
            raise SettingsError(f"{at}: another upstream has the name `{name}`")
        names.add(name)


def _check_target(where: str, target: ModelEntry | Target) -> None:
    if target.url is not None:
        _check_url(f"{where}.url", target.url)
    if target.key_env and target.key_file:
        raise SettingsError(f"{where}: give at most one of `key_env` and `key_file`")
    baseten = target.baseten
    if baseten is not None and baseten.regional and (baseten.deployment or baseten.development):
        raise SettingsError(f"{where}.baseten: a regional host serves environments only")
    if baseten is not None and baseten.regional and baseten.endpoint == "openai":
        raise SettingsError(f"{where}.baseten: for the `openai` endpoint of a regional host give its `url`")


def _check_url(where: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{where}: `{url}` is not an http or https URL")
    if parts.username or parts.password:
        raise SettingsError(f"{where}: a URL must not hold keys; use `key_env` or `key_file`")
    if "{" in parts.netloc.replace("{model_id}", ""):
        raise SettingsError(f"{where}: `{url}` holds a placeholder that is not {{model_id}}")


def _check_store(store: Store) -> None:
    if (store.url is None) == (store.url_env is None):
        raise SettingsError("keys.store: give exactly one of `url` and `url_env`")
    if store.url is not None and "@" in store.url:
        raise SettingsError("keys.store.url: the password does not belong into the file; use `url_env`")


def _check_clients(settings: AdapterSettings, names: Mapping[str, str]) -> None:
    keys = settings.keys
    if keys.mode == "list" and not keys.clients:
        raise SettingsError("keys.mode is `list` but keys.clients is empty")
    if keys.mode != "list" and keys.clients:
        raise SettingsError(f"keys.clients are only read when keys.mode is `list`, not `{keys.mode}`")
    if keys.store is not None:
        _check_store(keys.store)
    for what in ("name", "sha256"):
        seen = [getattr(client, what) for client in keys.clients]
        if len(seen) != len(set(seen)):
            raise SettingsError(f"keys.clients: two clients have the same {what}")
    for client in keys.clients:
        for model in client.models or ():
            if model not in names:
                raise SettingsError(f"keys.clients.{client.name}.models: `{model}` is not in the models table")
