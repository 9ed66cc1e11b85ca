"""Settings file + environment -> Settings, with every mistake told by the name of the setting. Opens no socket."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

from bridge_adapter.errors import APIError
from bridge_adapter.openai_types import CHAT
from bridge_adapter.settings import Model, Settings

_SINGLE_VALUES = ("server", "observe", "path_form", "keys")
_LISTS = ("cors_origins", "trusted_hosts")
_CAPPED = ("max_tokens", "n")


class SettingsError(Exception):
    """The settings cannot be used; the message names the setting."""


def load_settings(path: str | Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The file, overridden by BRIDGE_SERVER_PORT and its like; without a file, BRIDGE_UPSTREAM_URL and BRIDGE_MODEL."""
    tree = _read(path) if path is not None else _from_environment(environment)
    _override(tree, environment)
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
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
    kind = next(field.type for field in msgspec.structs.fields(Settings) if field.name == part)
    return kind  # type: ignore[no-any-return]


def check_settings(settings: Settings) -> None:
    """What types alone cannot say."""
    names: dict[str, str] = {}
    for name, model in settings.models.items():
        where = f"models.{name}"
        for known in (name, *model.aliases):
            if known in names:
                raise SettingsError(f"{where}: the name `{known}` is taken by models.{names[known]}")
            names[known] = name
        _check_model(where, model)
    _check_clients(settings, names)
    if "{model_id}" not in settings.path_form.url:
        raise SettingsError("path_form.url must contain {model_id}")
    _check_url("path_form.url", settings.path_form.url)


def _check_model(where: str, model: Model) -> None:
    if (model.url is None) == (model.baseten is None):
        raise SettingsError(f"{where}: give exactly one of `url` and `baseten`")
    if model.url is not None:
        _check_url(f"{where}.url", model.url)
    if model.key_env and model.key_file:
        raise SettingsError(f"{where}: give at most one of `key_env` and `key_file`")
    if model.baseten is not None and model.baseten.regional and (model.baseten.deployment or model.baseten.development):
        raise SettingsError(f"{where}.baseten: a regional host serves an environment, no deployment or development")
    for name in model.caps:
        if name not in _CAPPED:
            raise SettingsError(f"{where}.caps.{name}: only {' and '.join(_CAPPED)} can be capped")
    for name, value in model.defaults.items():
        if name not in CHAT or name in ("model", "messages", "stream"):
            raise SettingsError(f"{where}.defaults.{name}: not a parameter that can have a default")
        try:
            CHAT[name](value, name)
        except APIError as error:
            raise SettingsError(f"{where}.defaults.{name}: {error.message}") from error


def _check_url(where: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{where}: `{url}` is not an http or https URL")
    if parts.username or parts.password:
        raise SettingsError(f"{where}: keys do not belong into the URL; use `key_env` or `key_file`")
    if "{" in parts.netloc.replace("{model_id}", ""):
        raise SettingsError(f"{where}: `{url}` holds a placeholder that is not {{model_id}}")


def _check_clients(settings: Settings, names: Mapping[str, str]) -> None:
    keys = settings.keys
    if keys.mode == "list" and not keys.clients:
        raise SettingsError("keys.mode is `list` but keys.clients is empty")
    if keys.mode != "list" and keys.clients:
        raise SettingsError(f"keys.clients are only read when keys.mode is `list`, not `{keys.mode}`")
    for what in ("name", "sha256"):
        seen = [getattr(client, what) for client in keys.clients]
        if len(seen) != len(set(seen)):
            raise SettingsError(f"keys.clients: two clients have the same {what}")
    for client in keys.clients:
        for model in client.models or ():
            if model not in names:
                raise SettingsError(f"keys.clients.{client.name}.models: `{model}` is not in the models table")


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
