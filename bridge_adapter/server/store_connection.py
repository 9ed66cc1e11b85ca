"""One connection to Redis or Valkey: scripts are sent as they come, in one stream, and answered in their order.

Nobody waits longer than `timeout`, and nobody waits at all for a store that is known to be away: a task of its own
tries it again. Knows nothing of limits.
"""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge_adapter.settings import SettingsError

_logger = logging.getLogger("bridge_adapter")

_CONNECT_TIMEOUT = 1.0  # only the task that connects waits for it
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 4.0  # seconds between two trials of a store that is away
_TURNS = 4  # of the event loop, within which an answer that has arrived reaches its call


class StoreUnavailable(Exception):
    """The store gave no answer in time, or is not asked because it gave none before. Tried in `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__()
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Script:
    """Lua, known to the store by its digest."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True)
class _Call:
    script: Script
    arguments: tuple[str | float, ...]  # number of keys, keys, the script's arguments
    since: float
    answer: "asyncio.Future[Any]"


class StoreConnection:
    """Belongs to one event loop. Calls that were sent but not answered when a connection broke are sent again."""

    def __init__(self, url: str, scripts: Sequence[Script], *, timeout: float, without: str) -> None:
        """Opens no connection. timeout: seconds for an answer. without: what happens without the store, for the log.

        Raises SettingsError.
        """
        import redis
        from redis.asyncio import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            # Only what makes connections: address, TLS, password. In RESP2 the store sends nothing unasked.
            self._connections: Any = ConnectionPool.from_url(
                url, protocol=2, decode_responses=True, socket_timeout=None, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:  # its message may hold the URL
            raise SettingsError("keys.store: the URL is not one of Redis") from None
        self._faults: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self._broken: tuple[type[Exception], ...] = (redis.ConnectionError, OSError)
        self._no_script: type[Exception] = redis.exceptions.NoScriptError
        self._scripts = scripts
        self._timeout = timeout
        self._without = without
        self._task: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._waiting: deque[_Call] = deque()  # sent or to be sent, the oldest first
        self._unsent: list[bytes] = []
        self._wake = asyncio.Event()
        self._hung = asyncio.Event()
        self._tried = asyncio.Event()
        self._timer: asyncio.Handle | None = None
        self._answered = False  # whether this connection has brought an answer
        self._away = False
        self._retry_at = 0.0

    async def start(self) -> None:
        """Connect; return when the store has answered or is known to be away."""
        self._begin()
        await self._tried.wait()

    async def close(self) -> None:
        """What was sent is waited for, as long as for any answer."""
        if self._task is None:
            return
        if self._waiting:
            await asyncio.wait([call.answer for call in self._waiting], timeout=self._timeout)
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._timer is not None:
            self._timer.cancel()

    @property
    def available(self) -> bool:
        return not self._away

    @property
    def retry_after(self) -> float:
        """Seconds until a store that is away is tried again."""
        return max(0.0, self._retry_at - time.monotonic())

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | float]) -> "asyncio.Future[Any]":
        """The answer, which need not be awaited. Raises StoreUnavailable, at once or as the future's exception."""
        self._begin()
        if self._away:
            raise StoreUnavailable(self.retry_after)
        loop = asyncio.get_running_loop()
        call = _Call(script, (len(keys), *keys, *arguments), loop.time(), loop.create_future())
        call.answer.add_done_callback(_retrieve)
        self._waiting.append(call)
        if self._connection is not None:
            self._write("EVALSHA", script.sha, call)
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._check)
        return call.answer

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._keep_connected())

    def _write(self, command: str, script: str, call: _Call) -> None:
        self._unsent.append(_packed(command, script, *call.arguments))
        self._wake.set()

    def _check(self, turns: int = 0) -> None:
        """The oldest call is late first. A loop that was held up reads what has arrived before it judges."""
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        due = self._waiting[0].since + self._timeout
        if loop.time() < due:
            self._timer = loop.call_at(due, self._check)
        elif turns < _TURNS:
            self._timer = loop.call_soon(self._check, turns + 1)
        else:
            self._leave_alone(TimeoutError(), _FIRST_PAUSE)
            self._hung.set()

    def _leave_alone(self, error: Exception, pause: float) -> None:
        """Refuse all that wait, and whatever comes until the store has answered again."""
        if not self._away:
            _logger.warning("keys.store: cannot be asked, %s: %s", self._without, type(error).__name__)
        self._away = True
        self._retry_at = time.monotonic() + pause
        self._tried.set()
        for call in self._waiting:
            if not call.answer.done():
                call.answer.set_exception(StoreUnavailable(pause))
        self._waiting.clear()

    async def _keep_connected(self) -> None:
        pause = 0.0
        while True:
            connection = self._connections.make_connection()
            self._answered = False
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    await connection.connect()
                async with asyncio.timeout(self._timeout):
                    await self._load_scripts(connection)
                await self._serve(connection)
            except self._faults as error:
                if self._answered and isinstance(error, self._broken) and not isinstance(error, TimeoutError):
                    pause = 0.0  # closed while it was idle, or restarted: who waits may yet be answered
                else:
                    pause = _FIRST_PAUSE if self._answered else min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                    self._leave_alone(error, pause)
            finally:
                await connection.disconnect(nowait=True)
            await asyncio.sleep(pause)

    async def _load_scripts(self, connection: Any) -> None:
        await connection.send_packed_command(b"".join(_packed("SCRIPT", "LOAD", one.text) for one in self._scripts))
        for _ in self._scripts:
            await connection.read_response()

    async def _serve(self, connection: Any) -> None:
        """Raises when the connection breaks, an answer is late, or the store answers with an error."""
        if self._away:
            _logger.warning("keys.store: answers again")
        self._away = False
        self._tried.set()
        self._connection = connection
        self._unsent.clear()
        self._hung.clear()
        self._waiting = deque(call for call in self._waiting if not call.answer.done())
        for call in self._waiting:
            self._write("EVALSHA", call.script.sha, call)
        parts = [asyncio.create_task(part) for part in (self._send(), self._receive(), self._stop_when_hung())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connection = None
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        for part in done:
            part.result()

    async def _stop_when_hung(self) -> None:
        await self._hung.wait()
        raise TimeoutError

    async def _send(self) -> None:
        connection = self._connection
        while True:
            await self._wake.wait()
            self._wake.clear()
            commands, self._unsent = self._unsent, []
            await connection.send_packed_command(b"".join(commands), check_health=False)

    async def _receive(self) -> None:
        connection = self._connection
        while True:
            try:
                answer = await connection.read_response()
            except self._no_script:  # somebody has removed them
                call = self._waiting.popleft()
                self._waiting.append(call)
                self._write("EVAL", call.script.text, call)
                continue
            if self._away:
                return  # it comes too late
            self._answered = True
            call = self._waiting.popleft()
            if not call.answer.done():
                call.answer.set_result(answer)


def _packed(*words: str | float) -> bytes:
    """A command as Redis reads it: an array of bulk strings. The client's own way takes more than twice as long."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def _retrieve(answer: "asyncio.Future[Any]") -> None:
    """So that an exception nobody awaits is not logged."""
    if not answer.cancelled():
        answer.exception()
