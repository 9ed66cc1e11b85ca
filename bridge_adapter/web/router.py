"""`GET /` and `GET /assets/...` with the headers that keep the page shut in its own origin."""

from collections.abc import Mapping

from fastapi import APIRouter, HTTPException, Request, Response

from bridge_adapter.web.assets import Asset, read_assets

# Trusted Types: the one policy that may make HTML from text is the sanitizer's own.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


def router() -> APIRouter:
    """The page's routes; whether they are mounted is the caller's to decide."""
    assets = read_assets()
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return _response(assets["index.html"], request.headers)

    @routes.api_route("/assets/{path:path}", methods=["GET", "HEAD"])
    async def asset(request: Request, path: str) -> Response:
        if (found := assets.get(path)) is None:
            raise HTTPException(404)
        return _response(found, request.headers)

    return routes


def _response(asset: Asset, headers: Mapping[str, str]) -> Response:
    packed = _accepts_gzip(headers.get("accept-encoding", ""))
    etag = asset.etag(packed=packed)
    answer = {**HEADERS, "ETag": etag}
    if etag in _tags(headers.get("if-none-match", "")):
        return Response(status_code=304, headers=answer)
    if packed:
        answer["Content-Encoding"] = "gzip"
    return Response(asset.packed if packed else asset.body, media_type=asset.media_type, headers=answer)


def _accepts_gzip(accept_encoding: str) -> bool:
    for coding in accept_encoding.lower().split(","):
        name, _, parameter = coding.partition(";")
        if name.strip() == "gzip":
            return parameter.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def _tags(if_none_match: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
