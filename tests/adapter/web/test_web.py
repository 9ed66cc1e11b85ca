"""The page's files over HTTP: types, headers, caching, and nothing but what is listed."""

import gzip

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from bridge_adapter.web import router


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(router())
    return TestClient(app)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/assets/page.js", "text/javascript; charset=utf-8"),
        ("/assets/base.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/assets/vendor/highlight/languages/python.js", "text/javascript; charset=utf-8"),
    ],
)
def test_a_file_has_its_type_and_the_headers(client: TestClient, path: str, media_type: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_head_has_no_body(client: TestClient) -> None:
    response = client.head("/")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/assets/vendor/marked.js"])
def test_an_unchanged_file_is_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_gzip_where_it_is_accepted(client: TestClient) -> None:
    plain = client.get("/assets/page.js", headers={"Accept-Encoding": "identity"})
    packed = client.get("/assets/page.js", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    refused = client.get("/assets/page.js", headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
    assert packed.content == plain.content == refused.content
    assert packed.headers["etag"] != plain.headers["etag"] == refused.headers["etag"]


@pytest.mark.parametrize(
    "path",
    [
        "/assets/",
        "/assets/none.js",
        "/assets/../router.py",
        "/assets/%2e%2e/router.py",
        "/assets/..%2frouter.py",
        "/assets/vendor/README.md",
        "/assets//etc/passwd",
        "/assets/vendor",
    ],
)
def test_what_is_not_listed_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404
