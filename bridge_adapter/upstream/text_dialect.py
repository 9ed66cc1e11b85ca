"""What is done outside the model for a Truss that only makes text: stop strings, and JSON checked afterwards. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from bridge_adapter.errors import UpstreamError
from bridge_adapter.stops import StopScanner
from bridge_adapter.wire import Choice, Delta, Done, Event, Finish


class OutsideWork:
    """One text answer on its way through. `over`: the answer has ended before the upstream did, at a stop string."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._scanner = StopScanner(_stops(body))
        self._gathered: list[str] | None = [] if "response_format" in body else None
        self.over = False

    def feed(self, event: Event) -> Iterator[Event]:
        if self.over:
            return
        if isinstance(event, Delta):
            yield from self._show(self._scanner.feed(event.text))
            if self._scanner.stopped:
                self.over = True
                yield from self._end("stop")
                yield Done()
        elif isinstance(event, Finish):
            yield from self._show(self._scanner.flush())
            yield from self._end(event.reason)
        else:
            yield event

    def choice(self, choice: Choice) -> Choice:
        """The same for an answer that came whole."""
        text = self._scanner.feed(choice.text or "") + self._scanner.flush()
        self._check(text)
        return Choice(choice.index, text, finish_reason=choice.finish_reason)

    def _show(self, text: str) -> Iterator[Event]:
        if self._gathered is not None:
            self._gathered.append(text)
        if text:
            yield Delta(0, text)

    def _end(self, reason: Any) -> Iterator[Event]:
        if self._gathered is not None:
            self._check("".join(self._gathered))
        yield Finish(0, reason)

    def _check(self, text: str) -> None:
        if self._gathered is None:
            return
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise UpstreamError(
                "The model's output is not the JSON object that 'response_format' asks for.",
                kind="not_json",
                param="response_format",
                code="invalid_json_output",
            )


def _stops(body: dict[str, Any]) -> Sequence[str]:
    stops: Sequence[str] = body.get("stop", ())
    return stops
