"""The Truss server's output while it starts, told to people: what is being done, how far it is, and why it failed.

The server writes JSON lines with tracebacks in them, and libraries write progress bars and plain lines in between.
"""

import json
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

# What model.py writes before the cause of a load that must not be tried again.
REFUSED = "The model cannot be loaded. "
# Truss's own lines that tell a person nothing, or what is not so: it would load a second time what cannot be loaded.
NOISE = (
    "Using no-op tracing",
    "Started server process",
    "Waiting for application startup",
    "Application startup complete",
    "Uvicorn running on",
    "Executing model.load()",
    "Loading truss model from file",
    "Failed to load model. Retrying",
    "Completed model.load()",
    "Handled request:",
)
BAR = re.compile(r"(?P<what>[^:|]+):\s+(?P<percent>\d+)%\|")
QUIET_SECONDS = 10.0  # then a line says what is still being done, and how far it is
LAST_LINES = 5


class TrussOutput:
    """Called with each line, possibly in another thread. `tell` gets the lines for people."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._doing = "starting"
        self._began = self._told = clock()
        self._refusal: str | None = None
        self._error: str | None = None
        self._in_traceback = False
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def refused(self) -> bool:
        """Whether the model has said that it cannot be loaded."""
        return self._refusal is not None

    @property
    def error(self) -> str | None:
        """What the model said why it cannot be loaded, or the first error of the server."""
        return self._refusal or self._error

    @property
    def last_lines(self) -> tuple[str, ...]:
        return tuple(self._last)

    def __call__(self, line: str) -> None:
        if self._in_traceback or line.startswith("Traceback (most recent call last)"):
            self._in_traceback = line.startswith(("Traceback", " "))
            if not self._in_traceback:
                self._note_error(line, "")
            return
        record = _record(line)
        message = str(record.get("message", "")) if record else line.strip()
        if not message or message.startswith(NOISE):
            return
        if record.get("levelname") in ("ERROR", "CRITICAL"):
            self._note_error(message, str(record.get("exc_info") or ""))
        elif bar := BAR.match(message):
            self._doing = f"{bar['what'].strip()}: {bar['percent']} %"
        else:
            self._last.append(message)
            self._start(message)

    def waiting(self) -> None:
        """Called again and again during the start: says what is still being done where nothing else is said."""
        now = self._clock()
        if now - self._told >= QUIET_SECONDS:
            self._told = now
            self._tell(f"{self._doing.rstrip('.')} ({now - self._began:.0f} s so far)")

    def _start(self, doing: str) -> None:
        self._doing = doing
        self._began = self._told = self._clock()
        self._tell(doing)

    def _note_error(self, message: str, traceback: str) -> None:
        if message.startswith(REFUSED):
            self._refusal = message.removeprefix(REFUSED)
        elif self._error is None:
            reason = traceback.strip().rpartition("\n")[2]
            self._error = f"{message}: {reason}" if reason else message


def _record(line: str) -> dict[str, Any]:
    """The line as an object; empty for plain text."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
