"""What a caller of a wrong URL may have meant: a base URL without /v1 or with it twice, a slash too many. Pure."""

from bridge_adapter.openai_api.operations import OPERATIONS

_ROUTES = sorted((*OPERATIONS, "/models"), key=len, reverse=True)
_BASETEN_ID = 8  # letters and digits


def meant(path: str) -> str | None:
    """The path of a route that this one contains, or None."""
    segments = [segment for segment in path.split("/") if segment]
    joined = "/" + "/".join(segments)
    for route in _ROUTES:
        before, found, after = f"{joined}/".partition(f"{route}/")
        if found:
            first = before.strip("/").partition("/")[0]
            prefix = f"/{first}" if len(first) == _BASETEN_ID and first.isalnum() else ""
            name = f"/{after.strip('/')}" if route == "/models" and after else ""
            return f"{prefix}/v1{route}{name}"
    return None
