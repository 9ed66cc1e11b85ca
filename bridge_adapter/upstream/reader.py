"""The bytes of one upstream answer -> batches of checked events. Pure."""

from collections.abc import Callable, Iterator
from typing import Any

from bridge_adapter.contract import Broken, Delta, Done, Event, Failure, Finish, ToolCall
from bridge_adapter.errors import APIError
from bridge_adapter.upstream.decoders import Decoder, ErrorInside
from bridge_adapter.upstream.text_dialect import TextPostProcessor


class Reader:
    """Reads the answer of one call. The events before a fault are returned, and the fault is in `fault`.

    `ended`: the last event has been returned. `cut_short`: the adapter ended the answer, the upstream is still sending.
    """

    def __init__(self, decoder: Decoder, choices: int, body: dict[str, Any]) -> None:
        self._decoder = decoder
        self._validator = StreamValidator(choices)
        self._body = body
        self._begun = False
        self._post_processor: TextPostProcessor | None = None  # of the text dialect only, known with the first event
        self.fault: Broken | ErrorInside | APIError | None = None
        self.ended = False

    @property
    def cut_short(self) -> bool:
        return self._post_processor is not None and self._post_processor.over

    def read(self, piece: bytes) -> list[Event]:
        return self._collect(self._decoder.decode, piece)

    def end(self) -> list[Event]:
        return self._collect(self._decoder.end)

    def _collect(self, decode: Callable[..., Iterator[Event]], *data: bytes) -> list[Event]:
        events: list[Event] = []
        check = self._validator.check
        try:
            for event in decode(*data):
                if not self._begun:
                    self._begun = True
                    self._post_processor = TextPostProcessor(self._body) if self._decoder.dialect == "text" else None
                if self._post_processor is None:
                    check(event)
                    events.append(event)
                    continue
                for produced in self._post_processor.process(event):
                    check(produced)
                    events.append(produced)
        except (Broken, ErrorInside, APIError) as fault:
            self.fault = fault
        self.ended = bool(events) and isinstance(events[-1], Done | Failure)
        return events


class StreamValidator:
    """Checks the events of one call. Raises Broken for a choice that was not requested or does not finish."""

    def __init__(self, choices: int) -> None:
        self._open = set(range(choices))

    def check(self, event: Event) -> None:
        if type(event) is Delta or type(event) is ToolCall:
            if event.index not in self._open:
                raise Broken("text of a choice that is not open")
        elif isinstance(event, Finish):
            if event.index not in self._open:
                raise Broken("an end of a choice that is not open")
            self._open.remove(event.index)
        elif isinstance(event, Done) and self._open:
            raise Broken("the end of the stream before the end of every choice")
