"""Downloads from a hub on the loopback that speaks as much of the protocol as is needed."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from truss_model.errors import LoadError
from truss_model.loading.hub import HubRepository, download

COMMIT = "c" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "consolidated.safetensors": b"the same again"}
# What the hub says of a repository, by its name: status and X-Error-Code.
REFUSALS = {
    "o/gated": (403, "GatedRepo"),
    "o/private": (401, "RepoNotFound"),
    "o/old": (404, "RevisionNotFound"),
    "o/secret": (401, ""),
    "o/broken": (418, ""),
}


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2])
        if name in REFUSALS:
            status, code = REFUSALS[name]
            self.answer(status, b"{}", {"X-Error-Code": code})
        elif self.path.startswith("/api/models/o/huge"):
            self.tell({"model.safetensors": 10**18})
        elif self.path.startswith("/api/models/"):
            self.tell({file: len(data) for file, data in FILES.items()})
        else:
            data = FILES[self.path.rpartition("/")[2]]
            size = {"X-Linked-Size": str(10**18)} if "huge" in self.path else {}
            self.answer(200, data, {"ETag": f'"{len(data):040d}"', **size})

    do_HEAD = do_GET

    def tell(self, sizes: dict[str, int]) -> None:
        files = [{"rfilename": file, "size": size, "blobId": f"{size:040d}"} for file, size in sizes.items()]
        if "/tree/" in self.path:
            body: object = [
                {"type": "file", "path": file, "size": size, "oid": f"{size:040d}"} for file, size in sizes.items()
            ]
        else:
            body = {"id": "o/n", "sha": COMMIT, "siblings": files}
        self.answer(200, json.dumps(body).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_needed_is_downloaded_once(hub: str, tmp_path: Path) -> None:
    repository = HubRepository("o/n")
    folder = download(repository, None, False, endpoint=hub, cache=tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }
    assert download(repository, None, True, endpoint="http://127.0.0.1:9", cache=tmp_path) == folder


@pytest.mark.parametrize(
    ("name", "token", "told"),
    [
        ("o/gated", None, ["o/gated is gated", "no token is set", "hf_access_token"]),
        ("o/gated", "t", ["o/gated is gated", "has not been given access"]),
        ("o/private", None, ["o/private was not found", "it needs a token and none is set", "hf_access_token"]),
        ("o/private", "t", ["the token does not open it"]),
        ("o/secret", "t", ["the token does not open it"]),
        ("o/old@v9", None, ["o/old on the hub has no revision v9"]),
        ("o/broken", None, ["Downloading o/broken failed"]),
        ("no name at all", None, ["'no name at all' is no name of a repository"]),
        ("o/huge", None, ["Not enough disk space to download o/huge", "1000000000.0 GB are needed"]),
    ],
)
def test_a_refusal_names_cause_and_remedy(
    hub: str, tmp_path: Path, name: str, token: str | None, told: list[str]
) -> None:
    with pytest.raises(LoadError) as error:
        download(HubRepository.parse(name), token, False, endpoint=hub, cache=tmp_path)
    assert [words for words in told if words not in error.value.message] == []


def test_what_was_never_downloaded_is_not_there_offline(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has not been downloaded before, and the hub cannot be reached"):
        download(HubRepository("o/n"), None, True, cache=tmp_path)
