"""The limits of the queue and of a request: when to refuse, and with which Retry-After. Knows no rows."""

import time
from collections.abc import Callable, Sequence

from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import QueueFull, RequestError

LEARNING_RATE = 0.1


class AdmissionQueue:
    """Requests that have no row yet. The event loop adds, the engine thread removes; nothing blocks.

    A request that would wait longer than `seconds` at the pace of the last admissions is refused at once.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._since: dict[Generation, float] = {}
        self._interval = 0.0  # seconds between two admissions while requests wait, a moving average
        self._last_admission = 0.0

    def __len__(self) -> int:
        return len(self._since)

    def check(self) -> None:
        """Raise QueueFull if one more request would not be served in time."""
        if len(self._since) >= self._size or len(self._since) * self._interval > self._seconds:
            raise self._full("Too many requests are waiting; try again later.")

    def enter(self, generation: Generation) -> None:
        self._since[generation] = self._clock()

    def leave(self, generation: Generation) -> None:
        self._since.pop(generation, None)

    def admit(self, generation: Generation) -> bool:
        """Remove a request whose first row was admitted; False if it was removed before."""
        since = self._since.pop(generation, None)
        if since is None:
            return False
        now = self._clock()
        self._interval += LEARNING_RATE * (now - max(since, self._last_admission) - self._interval)
        self._last_admission = now
        return True

    def overdue(self) -> list[tuple[Generation, QueueFull]]:
        """The requests that have waited too long, each with its error."""
        before = self._clock() - self._seconds
        # dict.copy is atomic; the event loop adds meanwhile.
        late = [generation for generation, since in self._since.copy().items() if since < before]
        return [
            (generation, self._full(f"The request waited {self._seconds:g} s in the queue.")) for generation in late
        ]

    def _full(self, message: str) -> QueueFull:
        """Retry-After is the time in which about a tenth of the queue is served."""
        about = self._interval * self._size / 10
        return QueueFull(message, retry_after=min(max(1.0, about), max(1.0, self._seconds)))


def check_length(prompt: int, max_tokens: int, max_model_len: int) -> None:
    """Raise RequestError for a request that can never be served; all three in tokens."""
    if prompt == 0:
        raise RequestError("The prompt is empty.", param="messages")
    if prompt + max_tokens > max_model_len:
        raise RequestError(
            f"This model's maximum context length is {max_model_len} tokens. However, you requested "
            f"{prompt + max_tokens} tokens ({prompt} in the messages, {max_tokens} in the completion). "
            "Please reduce the length of the messages or completion.",
            param="messages",
            code="context_length_exceeded",
        )


def check_tokens(prompt: Sequence[int], params: SamplingParams, vocab: int) -> None:
    """Raise RequestError for ids that the model lacks: its tokenizer may have more.

    One of them would fail a step with all its rows, and a GPU with its process.
    """
    for ids, param in ((prompt, "prompt"), (params.logit_bias, "logit_bias")):
        if (highest := max(ids, default=0)) >= vocab:
            raise RequestError(f"Token id {highest} does not exist; the model has {vocab} ids.", param=param)
