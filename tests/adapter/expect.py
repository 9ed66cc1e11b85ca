"""Errors as the tests write them down."""

from typing import Any

from tests.adapter.harness import Answered
from tests.adapter.stub import Request, Wire, line

ONCE = {"retries": {"attempts": 0}}
SOON = 0.5  # seconds after which an upstream is given up; what must come before takes milliseconds
HALF = line(event="start", prompt_tokens=1) + line(event="delta", index=0, text="Hel")


def error(answered: Answered) -> tuple[int, dict[str, Any]]:
    assert answered.headers["content-type"] == "application/json"
    return answered.status, answered.json["error"]


def last_event(answered: Answered) -> dict[str, Any]:
    """The error event of a stream that had begun: after the text, before [DONE], with no finish reason anywhere."""
    assert answered.status == 200
    *chunks, last = answered.chunks
    assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])
    return dict(last["error"])


def fault(
    message: str, type: str = "server_error", code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {"message": message, "type": type, "param": param, "code": code}


def unusable(what: str) -> dict[str, Any]:
    return fault(f"The model's server sent an unusable answer: {what}.")


async def page(request: Request, wire: Wire) -> None:
    await wire.whole(200, b"<html>sign in</html>", "text/html")


async def hang(request: Request, wire: Wire) -> None:
    await wire.peer_left()


async def closed_halfway(request: Request, wire: Wire) -> None:
    await wire.start()
    await wire.piece(HALF)
    wire.close()
