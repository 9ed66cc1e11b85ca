"""Stop strings in text that comes in pieces, for Trusses that know none. Pure; the stop string is never shown."""

from collections.abc import Sequence


class StopScanner:
    """Feed pieces, get the text that can no longer be part of a stop string. `stopped`: one was met, feed no more."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        text = self._held + piece
        met = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if met:
            self.stopped = True
            self._held = ""
            return text[: min(met)[1]]  # the first to be complete, so that the outcome does not depend on the pieces
        keep = max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        rest, self._held = self._held, ""
        return rest

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """How many of the last characters are the beginning of the stop string."""
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
