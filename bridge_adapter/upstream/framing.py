"""Bytes -> lines and server-sent events, however the network cut them. Pure; the length of a line is limited."""

from bridge_adapter.contract import Broken

_BOM = b"\xef\xbb\xbf"


class LineSplitter:
    """Splits bytes into lines without their ends (LF or CRLF); `flush` returns a last line that has no end."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest: list[bytes] = []
        self._held = 0

    def split(self, data: bytes) -> list[bytes]:
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
            raise Broken("a line above the size limit")
        self._rest.append(data)


class EventSplitter:
    """Splits the bytes of an event stream into the `data` of its events; comments and other fields are skipped.

    By https://html.spec.whatwg.org/multipage/server-sent-events.html: a byte order mark may come first, and a line ends
    with LF, CRLF or CR.
    """

    def __init__(self, longest: int) -> None:
        self._lines = LineSplitter(longest)
        self._beginning: bytes | None = b""  # held until it is known whether it is a byte order mark
        self._after_cr = False
        self._data: list[bytes] = []

    def split(self, data: bytes) -> list[bytes]:
        if self._beginning is not None:
            self._beginning += data
            if len(self._beginning) < len(_BOM) and _BOM.startswith(self._beginning):
                return []
            data, self._beginning = self._beginning.removeprefix(_BOM), None
        events: list[bytes] = []
        for line in self._lines.split(self._with_lf(data)):
            self._add(line, events)
        return events

    def flush(self) -> list[bytes]:
        """The last event of a stream that ends without the empty line after it."""
        events: list[bytes] = []
        self._add((self._beginning or b"") + self._lines.flush(), events)
        self._add(b"", events)
        return events

    def _with_lf(self, data: bytes) -> bytes:
        """The same lines, all ended by LF. A CR ends its line at once: the LF of a CRLF may come later, or never."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _add(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        elif line == b"data":
            self._data.append(b"")
        elif line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
