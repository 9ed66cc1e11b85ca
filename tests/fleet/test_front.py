"""What the front does when a replica fails, with replicas that are only said to."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2 as httpx
import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from starlette.applications import Starlette
from starlette.routing import Route

from deploy.ray.call import ROUTES, Head, ModelCall
from deploy.ray.front import Front

PREDICT = "/v1/models/model:predict"
LINES = Head(200, {"content-type": "application/octet-stream"})
JSON = Head(200, {"content-type": "application/json"})
FAILED = RayTaskError("answer", "", ValueError("secret"))
Item = Head | bytes | Exception


class Items:
    """An answer as a handle gives it: an exception ends it."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.cancelled = False
        self._items = self._given(items)

    async def _given(self, items: Sequence[Item]) -> AsyncIterator[Head | bytes]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item

    def __aiter__(self) -> AsyncIterator[Head | bytes]:
        return self._items

    def __anext__(self) -> Any:
        return self._items.__anext__()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Answers one call after another with what it was given."""

    def __init__(self, *answers: Sequence[Item]) -> None:
        self.given = [Items(items) for items in answers]
        self.calls: list[ModelCall] = []

    def options(self, **options: Any) -> "Handle":
        assert options == {"stream": True, "method_name": "answer"}
        return self

    def remote(self, call: ModelCall) -> Items:
        self.calls.append(call)
        return self.given[len(self.calls) - 1]


async def post(handle: Handle, path: str = PREDICT) -> httpx.Response:
    front = Front(handle)  # type: ignore[arg-type]
    app = Starlette(routes=[Route("/{path:path}", front.__call__, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
        return await client.post(path, json={"prompt": "Hi"})


@pytest.mark.parametrize("lost", [ActorDiedError(), NodeDiedError("gone")])
@pytest.mark.parametrize("items", [[], [JSON, b'{"hal'], [LINES]])
async def test_what_has_not_begun_is_asked_of_another_replica(lost: Exception, items: list[Item]) -> None:
    handle = Handle([*items, lost], [JSON, b'{"half', b'": 1}'])
    answer = await post(handle)
    assert (answer.status_code, answer.json()) == (200, {"half": 1})
    assert handle.calls[0] == handle.calls[1]


async def test_a_call_that_no_replica_answers_is_refused_after_four() -> None:
    handle = Handle(*[[ActorDiedError()]] * 9)
    answer = await post(handle)
    assert (answer.status_code, answer.headers["retry-after"], len(handle.calls)) == (503, "1", 4)


async def test_a_call_for_which_nobody_has_room_is_refused_at_once() -> None:
    handle = Handle([BackPressureError(num_queued_requests=1, max_queued_requests=1)])
    assert (await post(handle)).status_code == 503
    assert len(handle.calls) == 1


async def test_a_replica_that_fails_is_not_asked_again_and_its_words_are_not_told() -> None:
    handle = Handle([FAILED])
    answer = await post(handle)
    assert (answer.status_code, answer.json()["error"]["type"], len(handle.calls)) == (500, "server_error", 1)
    assert "secret" not in answer.text


@pytest.mark.parametrize("lost", [ActorDiedError(), NodeDiedError("gone"), FAILED])
@pytest.mark.parametrize("path", ROUTES)
async def test_a_stream_that_had_begun_ends_with_the_error_of_its_route(path: str, lost: Exception) -> None:
    handle = Handle([LINES, b"piece\n", lost])
    answer = await post(handle, path)
    assert len(handle.calls) == 1 and handle.given[0].cancelled
    first, *rest = answer.text.splitlines()
    assert first == "piece"
    data = [line.removeprefix("data: ") for line in rest if line and not line.startswith("event: ")]
    if path in ("/v1/chat/completions", "/v1/completions"):
        assert data.pop() == "[DONE]"
    (error,) = map(json.loads, data)
    told = error.get("error", error)
    assert told["message"] == "The replica that made this answer was lost."
    if path == PREDICT:
        assert (told["event"], told["status"]) == ("error", 502)
