"""The page's files, read once and packed: what is not in the table built here cannot be asked for."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and as gzip; each form has an ETag of its own, as RFC 9110 8.8.3.3 asks."""

    body: bytes
    packed: bytes
    media_type: str
    digest: str

    def etag(self, *, packed: bool) -> str:
        return f'"{self.digest}-gzip"' if packed else f'"{self.digest}"'


def read_assets() -> Mapping[str, Asset]:
    """Every servable file of the page by its path below `static`."""
    return dict(_walk(files("bridge_adapter.web") / "static", ""))


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = prefix + entry.name
        if entry.is_dir():
            found += _walk(entry, path + "/")
        elif (media_type := MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])) is not None:
            found.append((path, _asset(entry.read_bytes(), media_type)))
    return found


def _asset(body: bytes, media_type: str) -> Asset:
    digest = hashlib.sha256(body).hexdigest()[:32]
    return Asset(body, gzip.compress(body, mtime=0), media_type, digest)
