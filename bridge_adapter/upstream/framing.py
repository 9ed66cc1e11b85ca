"""Bytes -> lines and server-sent events, however the network cut them. Pure; a line has a greatest length."""

from bridge_adapter.wire import Broken


class LineSplitter:
    """Feed bytes, get whole lines without their ends (LF or CRLF); `flush` returns an unended rest."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        end = data.find(b"\n")
        if end < 0:
            self._hold(data)
            return []
        if end == len(data) - 1 and not self._rest:  # what a Truss sends mostly: one line a piece
            return [data[:-2] if data.endswith(b"\r\n") else data[:-1]]
        lines = data.split(b"\n")
        if self._rest:
            lines[0] = b"".join(self._rest) + lines[0]
            self._rest.clear()
            self._held = 0
        self._hold(lines.pop())
        return [line[:-1] if line.endswith(b"\r") else line for line in lines]

    def flush(self) -> bytes:
        rest = b"".join(self._rest)
        self._rest.clear()
        self._held = 0
        return rest

    def _hold(self, data: bytes) -> None:
        if not data:
            return
        self._held += len(data)
        if self._held > self._longest:
            raise Broken("a line that has no end")
        self._rest.append(data)


class EventSplitter:
    """Feed the bytes of an event stream, get the `data` of each event; comments and other fields are dropped."""

    def __init__(self, longest: int) -> None:
        self._lines = LineSplitter(longest)
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        events: list[bytes] = []
        for line in self._lines.feed(data):
            self._take(line, events)
        return events

    def flush(self) -> list[bytes]:
        """What an end of the stream without an empty line left; a peer that omits the last one is forgiven."""
        events: list[bytes] = []
        self._take(self._lines.flush(), events)
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        elif line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
