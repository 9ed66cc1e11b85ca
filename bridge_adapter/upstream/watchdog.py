"""Runs beside a request: detects that the client left, keeps a silent stream alive, enforces the timeouts."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from starlette.types import Receive

from bridge_adapter.errors import ClientGone
from bridge_adapter.settings import Timeouts
from bridge_adapter.upstream import errors as upstream_errors

_GRACE = 0.05  # seconds after which the task is started: a quick answer needs none


class Watchdog:
    """`async with` around everything that waits for the upstream or the client. Starts at most one task.

    It cancels the task that entered it and replaces the cancellation with ClientGone or a timeout's UpstreamError.
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
        self._began = self.last_sent = self._last_received = self._clock()
        self._received_any = False
        self._reading = True
        self._over: Exception | None = None
        self._closed = False

    def received(self) -> None:
        """The upstream has sent something. Until `waiting` is called, its silence does not count."""
        self._received_any = True
        self._reading = False

    def waiting(self) -> None:
        """Everything received has been handled; from now on the upstream's silence counts."""
        self._last_received = self._clock()
        self._reading = True

    def sent(self) -> None:
        self.last_sent = self._clock()

    def stand_down(self) -> None:
        """The answer is complete: a client that leaves now cancels nothing."""
        self._closed = True

    async def __aenter__(self) -> "Watchdog":
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a Watchdog must be entered inside a task")
        self._request_task = task
        self._task: asyncio.Task[None] | None = None
        self._start = self._loop.call_later(_GRACE, self._begin)
        return self

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # No await here: a cancellation by `_end` has been delivered by now, and none follows after `_closed`.
        self._closed = True
        self._start.cancel()
        # Errors refer to frames, and frames to this object: break the cycle, or each request waits for the collector.
        if self._task is not None:
            self._task.cancel()
            self._task = None
        try:
            if self._over is not None and self._request_task.uncancel() == 0 and kind is asyncio.CancelledError:
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
        if not self._received_any:
            return min(total, self._began + self._timeouts.first_byte)
        return min(total, self._last_received + self._timeouts.idle) if self._reading else total

    def _phase(self, now: float) -> str:
        if now >= self._began + self._timeouts.total:
            return "total"
        return "idle" if self._received_any else "first_byte"

    def _end(self, why: Exception) -> None:
        if not self._closed:
            self._over = why
            self._request_task.cancel()
