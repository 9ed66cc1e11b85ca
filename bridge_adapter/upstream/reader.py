"""The bytes of upstream answers -> batches of checked events, of one call or of several as one. Pure."""

from collections.abc import Callable, Iterator
from typing import Any

from bridge_adapter.course import Course
from bridge_adapter.dialects import Decoder
from bridge_adapter.errors import APIError
from bridge_adapter.outside import OutsideWork
from bridge_adapter.whole import ErrorInside
from bridge_adapter.wire import Broken, Delta, Done, Event, Failure, Finish, Start, ToolCall, Usage


class Reader:
    """One call. What came before a fault is returned first; the fault stands in `fault` then.

    `ended`: the last event was seen. `cut_short`: it was made here, and the upstream still goes on.
    """

    def __init__(self, decoder: Decoder, choices: int, body: dict[str, Any]) -> None:
        self._decoder = decoder
        self._course = Course(choices)
        self._outside = OutsideWork(body)
        self._is_text: bool | None = None  # known with the first event
        self.fault: Broken | ErrorInside | APIError | None = None
        self.ended = False

    @property
    def cut_short(self) -> bool:
        return self._outside.over

    def feed(self, piece: bytes) -> list[Event]:
        return self._take(self._decoder.feed, piece)

    def end(self) -> list[Event]:
        return self._take(self._decoder.end)

    def _take(self, decode: Callable[..., Iterator[Event]], *data: bytes) -> list[Event]:
        events: list[Event] = []
        check = self._course.check
        try:
            for event in decode(*data):
                if self._is_text is None:
                    self._is_text = self._decoder.dialect == "text"
                if not self._is_text:
                    check(event)
                    events.append(event)
                    continue
                for made in self._outside.feed(event):
                    check(made)
                    events.append(made)
        except (Broken, ErrorInside, APIError) as fault:
            self.fault = fault
        self.ended = bool(events) and isinstance(events[-1], Done | Failure)
        return events


class Merge:
    """Several calls as one answer: call k's choices are k*each and so on; one start, one end with all usage."""

    def __init__(self, calls: int, each: int) -> None:
        self._running = calls
        self._each = each
        self._started = False
        self._usage = Usage()

    @property
    def running(self) -> bool:
        return self._running > 0

    def feed(self, call: int, events: list[Event]) -> list[Event]:
        return list(self._feed(call * self._each, events))

    def _feed(self, offset: int, events: list[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, Delta | ToolCall | Finish):
                event.index += offset
            if isinstance(event, Start):
                if self._started:
                    continue
                self._started = True
            if isinstance(event, Done):
                self._running -= 1
                self._usage = self._usage.add(event.usage)
                if self._running:
                    continue
                event = Done(self._usage)
            yield event
