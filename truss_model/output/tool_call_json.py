"""Pure machines over the JSON of a tool call while it is written: where a value ends, its name, its arguments."""

import json
from enum import Enum, auto

_SPACE = b" \t\r\n"


class JsonSpan:
    """Finds the end of one JSON value, which begins with the first byte. Checks brackets and strings only."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def scan(self, data: bytes, start: int = 0) -> int:
        """Return the position after the value's last byte, or the end of `data` if the value continues."""
        for position in range(start, len(data)):
            byte = data[position]
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif byte == 0x5C:  # backslash
                    self._escaped = True
                elif byte == 0x22:  # quote
                    self._in_string = False
                    self.done = not self._depth
            elif byte == 0x22:
                self._in_string = True
            elif byte in b"{[":
                self._depth += 1
            elif self._depth and byte in b"}]":
                self._depth -= 1
                self.done = not self._depth
            elif not self._depth and byte in b",}] \t\r\n":  # ends a number or a word without being part of it
                self.done = True
                return position
            if self.done:
                return position + 1
        return len(data)


class _At(Enum):
    OPEN = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_VALUE = auto()
    DONE = auto()
    FAILED = auto()


class CallObject:
    """Reads `{"name": ..., "arguments": ...}`, keys in any order and others ignored, as its bytes come.

    Arguments are passed on as they are written, or, if they are a JSON string of JSON, when the string is complete.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._at = _At.OPEN
        self._span = JsonSpan()
        self._key = ""
        self._buffer = b""
        self._passes = False  # the value's bytes go straight to the arguments
        self._arguments = b""
        self._has_arguments = False

    @property
    def done(self) -> bool:
        return self._at is _At.DONE

    @property
    def failed(self) -> bool:
        """The bytes are not a call; no more of them are read."""
        return self._at is _At.FAILED

    def take_arguments(self) -> bytes:
        """The new bytes of the arguments."""
        data, self._arguments = self._arguments, b""
        return data

    def parse(self, data: bytes, start: int = 0) -> int:
        """Return the position after the last byte that was read: the end of `data` unless done or failed."""
        position = start
        while position < len(data) and not self.done and not self.failed:
            if self._at in (_At.IN_KEY, _At.IN_VALUE):
                end = self._span.scan(data, position)
                self._collect(data[position:end])
                position = end
                if self._span.done:
                    self._end_value()
            elif data[position] in _SPACE:
                position += 1
            else:
                position += self._mark(data[position])
        return position

    def _mark(self, byte: int) -> int:
        """Take a byte between values; 0 if it is the first byte of a value, or not allowed here."""
        match self._at, chr(byte):
            case _At.OPEN, "{":
                self._at = _At.KEY
            case _At.KEY, "}":
                self._at = _At.DONE
                if not self._has_arguments:
                    self._arguments = b"{}"
            case _At.KEY, ",":
                pass
            case _At.KEY, '"':
                self._begin(_At.IN_KEY, passes=False)
                return 0
            case _At.COLON, ":":
                self._at = _At.VALUE
            case _At.VALUE, mark if mark not in ",:}]":
                self._begin(_At.IN_VALUE, passes=self._key == "arguments" and mark != '"')
                return 0
            case _:
                self._at = _At.FAILED
                return 0
        return 1

    def _begin(self, at: _At, *, passes: bool) -> None:
        self._at, self._span, self._buffer, self._passes = at, JsonSpan(), b"", passes

    def _collect(self, data: bytes) -> None:
        if self._passes:
            self._arguments += data
            self._has_arguments = True
        else:
            self._buffer += data

    def _end_value(self) -> None:
        was_key, self._at = self._at is _At.IN_KEY, _At.KEY
        if self._passes or not (was_key or self._key in ("name", "arguments")):
            return
        try:
            text = json.loads(self._buffer)
        except (ValueError, RecursionError):
            text = None
        if not was_key and self._key == "arguments":
            self._arguments += self._buffer if text is None else text.encode(errors="replace")
            self._has_arguments = True
        elif not isinstance(text, str):
            self._at = _At.FAILED
        elif was_key:
            self._key, self._at = text, _At.COLON
        else:
            self.name = text
