"""What the adapter does itself for a Truss that only returns text: stop strings, and a check of JSON output. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from bridge_adapter.contract import Choice, Delta, Done, Event, Finish
from bridge_adapter.errors import UpstreamError


class TextPostProcessor:
    """Processes one text answer. `over`: a stop string ended the answer before the upstream did."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._scanner = TextStopScanner(_stops(body))
        self._text: list[str] | None = [] if "response_format" in body else None
        self.over = False

    def process(self, event: Event) -> Iterator[Event]:
        if self.over:
            return
        if isinstance(event, Delta):
            yield from self._show(self._scanner.scan(event.text))
            if self._scanner.stopped:
                self.over = True
                yield from self._end("stop")
                yield Done(None)
        elif isinstance(event, Finish):
            yield from self._show(self._scanner.flush())
            yield from self._end(event.reason)
        else:
            yield event

    def choice(self, choice: Choice) -> Choice:
        """The same for an answer that was not streamed."""
        text = self._scanner.scan(choice.text or "") + self._scanner.flush()
        self._check(text)
        return Choice(choice.index, text, finish_reason=choice.finish_reason)

    def _show(self, text: str) -> Iterator[Event]:
        if self._text is not None:
            self._text.append(text)
        if text:
            yield Delta(0, text)

    def _end(self, reason: Any) -> Iterator[Event]:
        if self._text is not None:
            self._check("".join(self._text))
        yield Finish(0, reason)

    def _check(self, text: str) -> None:
        if self._text is None:
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


class TextStopScanner:
    """Returns the text that can no longer be part of a stop string. `stopped`: one was found, `scan` no more."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def scan(self, piece: str) -> str:
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]  # the first to be complete, so that the outcome does not depend on the pieces
        keep = max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        rest, self._held = self._held, ""
        return rest

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The number of last characters that are the beginning of the stop string."""
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
