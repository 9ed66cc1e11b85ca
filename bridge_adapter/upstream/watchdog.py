"""Beside a running request: sees the client leave, keeps a silent stream alive, ends what waits too long."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from starlette.types import Receive

from bridge_adapter import upstream_errors
from bridge_adapter.settings import Timeouts

_AT_EASE = 0.05  # seconds in which a request may end unwatched: a quick answer costs no task


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Watch:
    """`async with` around all that waits for the upstream or the client; at most one task, whatever it has to watch.

    It cancels the task it was entered in and turns that cancellation into ClientGone or a timeout's UpstreamError.
    `beat` is called when nothing was sent for `beat_after` seconds, then every `beat_every`.
    """

    def __init__(
        self,
        receive: Receive,
        timeouts: Timeouts,
        *,
        beat: Callable[[], Awaitable[None]] | None = None,
        beat_after: float = 0.0,
        beat_every: float = 0.0,
    ) -> None:
        self._receive = receive
        self._timeouts = timeouts
        self._beat = beat
        self._beat_after = beat_after
        self._beat_every = beat_every
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._began = self.last_sent = self._last_heard = self._clock()
        self._heard_any = False
        self._reading = True
        self._over: Exception | None = None
        self._closed = False

    def heard(self) -> None:
        """The upstream has sent something; until `waits`, its silence does not count."""
        self._heard_any = True
        self._reading = False

    def waits(self) -> None:
        """Everything heard has been dealt with; the upstream is waited for again."""
        self._last_heard = self._clock()
        self._reading = True

    def sent(self) -> None:
        self.last_sent = self._clock()

    def stand_down(self) -> None:
        """The answer is complete: what happens to the client now is no cancellation."""
        self._closed = True

    async def __aenter__(self) -> "Watch":
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a Watch belongs into a task")
        self._watched = task
        self._task: asyncio.Task[None] | None = None
        self._start = self._loop.call_later(_AT_EASE, self._begin)
        return self

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # No await in here: a cancellation by `_end` has been delivered by now, and none comes after `_closed`.
        self._closed = True
        self._start.cancel()
        # Errors hold frames, and frames hold this: let go of both, or every request is left to the garbage collector.
        if self._task is not None:
            self._task.cancel()
            self._task = None
        try:
            if self._over is not None and self._watched.uncancel() == 0 and kind is asyncio.CancelledError:
                raise self._over from None
        finally:
            self._over = None

    async def _run(self) -> None:
        while True:
            try:
                # No deadline that is set while this sleeps lies nearer than the idle time.
                soonest = self._clock() + self._timeouts.idle
                async with asyncio.timeout_at(min(self._next_beat(), self._deadline(), soonest)):
                    message = await self._receive()
                if message["type"] == "http.disconnect":
                    return self._end(ClientGone())
            except TimeoutError:
                now = self._clock()
                if now >= self._deadline():
                    return self._end(upstream_errors.too_slow(self._phase(now)))
                if now >= self._next_beat() and self._beat is not None:
                    self.sent()
                    self._beat_after = self._beat_every
                    await self._beat()

    def _next_beat(self) -> float:
        return self.last_sent + self._beat_after if self._beat is not None else float("inf")

    def _deadline(self) -> float:
        total = self._began + self._timeouts.total
        if not self._heard_any:
            return min(total, self._began + self._timeouts.first_byte)
        return min(total, self._last_heard + self._timeouts.idle) if self._reading else total

    def _phase(self, now: float) -> str:
        if now >= self._began + self._timeouts.total:
            return "total"
        return "idle" if self._heard_any else "first_byte"

    def _end(self, why: Exception) -> None:
        if not self._closed:
            self._over = why
            self._watched.cancel()
