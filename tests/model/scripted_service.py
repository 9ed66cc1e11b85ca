"""A service for the tests of OpenAI's routes: it answers what the test's script says, batch for batch."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from truss_model.errors import TrussModelError
from truss_model.output.answer import TextDelta, ToolCallDelta
from truss_model.output.events import (
    AnswerEvent,
    DoneEvent,
    ErrorEvent,
    FinishEvent,
    RowAnswer,
    TextEvent,
    ToolCallEvent,
    Usage,
    result,
)

Batches = Sequence[Sequence[AnswerEvent]]


class ScriptedAnswer:
    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.closed = False

    async def events(self) -> AsyncGenerator[list[AnswerEvent], None]:
        try:
            for batch in self._batches:
                yield list(batch)
        finally:
            self.closed = True

    async def whole(self) -> dict[str, Any]:
        """The object of a plain answer that these events stand for. Raises the error of an ErrorEvent."""
        choices: dict[int, RowAnswer] = {}
        usage = Usage(0, 0, 0)
        for event in (event for batch in self._batches for event in batch):
            if isinstance(event, ErrorEvent):
                raise event.error
            if isinstance(event, DoneEvent):
                usage = event.usage
            if isinstance(event, TextEvent | ToolCallEvent | FinishEvent):
                choice = choices.setdefault(event.index, RowAnswer(event.index, logprobs=True))
                if isinstance(event, TextEvent):
                    choice.add_text(TextDelta(event.text), event.logprobs)
                elif isinstance(event, ToolCallEvent):
                    choice.add_tool_call(ToolCallDelta(event.call, event.id, event.name, event.arguments))
                else:
                    choice.finish_reason = event.reason
        return result(list(choices.values()), usage, "m")


class ScriptedService:
    """Answers the calls with these, in their order; an error instead of batches is a refusal."""

    def __init__(self, *scripts: Batches | TrussModelError) -> None:
        self._scripts = list(scripts)
        self.bodies: list[Any] = []
        self.answers: list[ScriptedAnswer] = []

    async def open(self, body: object, size: int, gone: Callable[[], Awaitable[bool]]) -> ScriptedAnswer:
        script = self._scripts[len(self.bodies)]
        self.bodies.append(body)
        if isinstance(script, TrussModelError):
            raise script
        self.answers.append(ScriptedAnswer(script))
        return self.answers[-1]
