"""Where the store of the limits is: the URL of Redis or Valkey out of the settings, never shown with its password."""

import importlib.util
import os
from urllib.parse import urlsplit

from bridge_adapter.settings import SettingsError, Store


def store_url(store: Store) -> str:
    """The URL for the client, with its password. Raises SettingsError, which never holds it."""
    if importlib.util.find_spec("limits") is None or importlib.util.find_spec("redis") is None:
        raise SettingsError("keys.store needs the extra: pip install 'truss-openai-bridge[shared-limits]'")
    if store.url is not None:
        where, url = "keys.store.url", store.url
    else:
        where, url = (
            f"environment variable {store.url_env} of keys.store.url_env",
            os.environ.get(store.url_env or "", ""),
        )
        if not url.strip():
            raise SettingsError(f"{where} is not set")
    url = url.strip().replace("valkey", "redis", 1) if url.strip().startswith("valkey") else url.strip()
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(f"{where}: not a URL redis://, rediss://, valkey:// or valkeys://")
    return url


def store_address(store: Store) -> str:
    """Where the store is, without user and password."""
    parts = urlsplit(store_url(store))
    return f"{parts.hostname}:{parts.port or 6379}"
