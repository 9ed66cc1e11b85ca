"""What the server and the engine's process tell each other: frames of plain values over one socket. No I/O but that.

A frame is its length (4 bytes, little endian) and marshal's bytes of a tuple: both ends are the same interpreter.
To the engine: (configuration, token) at first, then ("submit", number, prompt, n, parameters, grammar) and
("cancel", number, index). Back: ("ready", max_model_len, folder, name, attempts), or ("failed", message, transient,
whether a fault of the GPU ended the process). Then, once a step at most, the columns of a `Batch`, the engine's counts,
and at times its distributions.
"""

import marshal
import socket
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from truss_model.engine.generation import FinishReason, TokenLogprob
from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import EngineUnwell, GenerationFailed, QueueFull, RequestError, TrussModelError

REASONS: tuple[FinishReason | None, ...] = (None, "stop", "length")
NO_TOKEN = -1  # in the tokens' column where a row ends without one
_LENGTH = 4
_READ = 1 << 20
_ERRORS = {kind.__name__: kind for kind in (RequestError, EngineUnwell, GenerationFailed)}
_PLAIN_PARAMS = [field.name for field in fields(SamplingParams) if field.name != "constraint"]


class Batch:
    """The output of one step, by columns: token i is of row `indexes[i]` of request `numbers[i]`.

    scores: request, of its next prompt tokens. logprobs: by position among the tokens, if requested. failed: request,
    error.
    """

    __slots__ = ("admitted", "failed", "indexes", "logprobs", "numbers", "reasons", "scores", "tokens")

    def __init__(self) -> None:
        self.admitted: list[tuple[int, int]] = []
        self.scores: list[tuple[int, list[tuple[Any, ...]]]] = []
        self.numbers: list[int] = []
        self.indexes: list[int] = []
        self.tokens: list[int] = []
        self.reasons: list[int] = []
        self.logprobs: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = {}
        self.failed: list[tuple[int, tuple[Any, ...]]] = []

    def __bool__(self) -> bool:
        return bool(self.admitted or self.scores or self.tokens or self.failed)

    def columns(self) -> tuple[Any, ...]:
        return (
            self.admitted,
            self.scores,
            self.numbers,
            self.indexes,
            self.tokens,
            self.reasons,
            self.logprobs,
            self.failed,
        )

    def put(
        self, number: int, index: int, token: int, logprob: TokenLogprob | None, reason: FinishReason | None
    ) -> None:
        if logprob is not None:
            self.logprobs[len(self.tokens)] = (logprob.logprob, logprob.top)
        self.numbers.append(number)
        self.indexes.append(index)
        self.tokens.append(token)
        self.reasons.append(REASONS.index(reason))


def frame(values: tuple[Any, ...]) -> bytes:
    data = marshal.dumps(values)
    return len(data).to_bytes(_LENGTH, "little") + data


class FrameReader:
    """Frames out of a socket's bytes, in whatever cut.

    Reads into one room for good: `recv` would allocate a new one for each frame and shrink it, and so leave the heap
    in pieces that grow in number for as long as the process serves.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._room = memoryview(bytearray(_READ))
        self._held = bytearray()

    def available(self) -> Iterator[tuple[Any, ...]]:
        """The frames that are complete. Does not wait for more; raises EOFError once the other end has closed."""
        while True:
            try:
                count = self._connection.recv_into(self._room, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            yield from self._accept(count)
            if count < _READ:
                return

    def wait(self) -> list[tuple[Any, ...]]:
        """The next frames, one at least. Raises EOFError once the other end has closed."""
        frames: list[tuple[Any, ...]] = []
        while not frames:
            frames = self._accept(self._connection.recv_into(self._room))
        return frames

    def _accept(self, count: int) -> list[tuple[Any, ...]]:
        """The frames that are complete with the first `count` bytes of the room."""
        if not count:
            raise EOFError
        held = self._held
        held += self._room[:count]
        begin, frames = 0, []
        with memoryview(held) as view:
            while len(held) - begin >= _LENGTH:
                end = begin + _LENGTH + int.from_bytes(view[begin : begin + _LENGTH], "little")
                if len(held) < end:
                    break
                frames.append(marshal.loads(view[begin + _LENGTH : end]))
                begin = end
        del held[:begin]
        return frames


def pack_params(params: SamplingParams) -> tuple[Any, ...]:
    """All but the constraint."""
    values = {name: getattr(params, name) for name in _PLAIN_PARAMS}
    return tuple((values | {"logit_bias": dict(params.logit_bias)}).values())


def unpack_params(values: tuple[Any, ...]) -> SamplingParams:
    """Without the constraint."""
    return SamplingParams(**dict(zip(_PLAIN_PARAMS, values, strict=True)))


def pack_error(error: TrussModelError) -> tuple[Any, ...]:
    if isinstance(error, QueueFull):
        return ("QueueFull", error.message, error.retry_after, None)
    kind = type(error).__name__
    return (kind if kind in _ERRORS else "GenerationFailed", error.message, error.param, error.code)


def unpack_error(values: tuple[Any, ...]) -> TrussModelError:
    kind, message, first, code = values
    if kind == "QueueFull":
        return QueueFull(message, retry_after=first)
    return _ERRORS[kind](message, param=first, code=code)
