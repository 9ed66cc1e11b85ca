"""Pure machine: generated pieces -> content and tool calls while they are written; the part that all styles share.

Text that begins like a call but is cut or is not one is not lost: unless it was emitted as a call, it becomes content.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from truss_model.output.detokenizer import Piece, Utf8Decoder
from truss_model.output.tool_call_json import CallObject
from truss_model.tokenizer.tool_format import ToolFormat

SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of call number `call`: `id` and `name` in its first piece only, then pieces of `arguments`."""

    call: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Event = Piece | ToolCallDelta


class CallParser:
    """`parse` every generated piece, then `flush` once. Pieces that are returned are content, in order with the calls.

    A state is a method that takes a piece from a position on and returns where it stopped; each style adds its own.
    """

    def __init__(self, tool_format: ToolFormat, new_id: Callable[[], str]) -> None:
        self.calls_done = 0  # how many calls are complete
        self._format = tool_format
        self._new_id = new_id
        self._emitted = 0  # calls whose first delta was returned
        self._raw: list[Piece] = []  # the pieces of a call before its first delta
        self._last_kept: Piece | None = None
        self._decoder = Utf8Decoder()
        self._object = CallObject()
        self._state: Callable[[Piece, int], int] = self._content
        self._out: list[Event] = []

    def parse(self, piece: Piece) -> list[Event]:
        if not piece.data:
            self._control(piece)
        position = 0
        while position < len(piece.data):
            position = self._state(piece, position)
        return self._take()

    def flush(self, *, cut: bool = False) -> list[Event]:
        """End here. cut: the beginning of a character in the arguments is left out."""
        if cut:
            self._decoder.drop()
        self._interrupt()
        return self._take()

    def close(self) -> None:
        """Nothing more is parsed. The state is a method of this object: without it the two would be a cycle."""
        self._state = _closed

    def _take(self) -> list[Event]:
        out, self._out = self._out, []
        return out

    def _control(self, piece: Piece) -> None:
        if piece.token_id == self._format.calls_id:
            self._interrupt()
            self._begin()
        elif self._state == self._content:
            self._out.append(piece)

    def _begin(self) -> None:
        """Go to the state after [TOOL_CALLS]."""

    def _interrupt(self) -> None:
        """End the call that is being read, if any."""
        self._write(b"", last=True)
        self._give_up()

    def _give_up(self) -> None:
        """The pieces kept are not a call: they and the following ones are content."""
        self._out += self._raw
        self._raw = []
        self._state = self._content

    def _keep(self, piece: Piece, start: int, end: int) -> None:
        if self._raw and self._last_kept is piece:
            self._raw[-1] = replace(piece, data=self._raw[-1].data + piece.data[start:end])
        else:
            self._raw.append(cut(piece, start, end))
        self._last_kept = piece

    def _emit_call(self, name: str, call_id: str | None = None) -> None:
        self._raw = []
        self._emitted += 1
        self._out.append(ToolCallDelta(self._emitted - 1, call_id or self._new_id(), name))

    def _write(self, data: bytes, *, last: bool = False) -> None:
        text = self._decoder.decode(data) + (self._decoder.flush() if last else "")
        if text:
            self._out.append(ToolCallDelta(self._emitted - 1, arguments=text))

    def _end_call(self) -> None:
        self._write(b"", last=True)
        self.calls_done = self._emitted

    def _content(self, piece: Piece, position: int) -> int:
        self._out.append(cut(piece, position))
        return len(piece.data)

    def _skip_space(self, piece: Piece, position: int) -> int:
        """After a call: white space is not content."""
        while position < len(piece.data) and piece.data[position] in SPACE:
            position += 1
        if position < len(piece.data):
            self._state = self._content
        return position

    def _in_object(self, piece: Piece, position: int) -> int:
        named = self._object.name is not None
        end = self._object.parse(piece.data, position)
        if not named:
            self._keep(piece, position, end)
            if self._object.name is not None:
                self._emit_call(self._object.name)
        if self._object.name is not None:
            self._write(self._object.take_arguments())
        if self._object.done and self._object.name is not None:
            self._end_call()
            self._after_object()
        elif self._object.done or self._object.failed:
            self._interrupt()
        return end

    def _begin_object(self) -> None:
        self._object = CallObject()
        self._state = self._in_object

    def _after_object(self) -> None:
        """Go to the state after a call's object."""


def _closed(piece: Piece, position: int) -> int:
    raise RuntimeError("a parser that was closed has got a piece")


def cut(piece: Piece, start: int, end: int | None = None) -> Piece:
    """The part of a piece; the very same piece if it is all of it."""
    data = piece.data[start:end]
    return piece if len(data) == len(piece.data) else replace(piece, data=data)
