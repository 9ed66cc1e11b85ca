"""response_format, tools and tool_choice -> one token mask a step for a row (llguidance). Knows no torch and no wire."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from truss_model.engine.params import TokenConstraint
from truss_model.prompt import ChatTokenizer


@dataclass(frozen=True, slots=True)
class GrammarRequest:
    """What of a request restricts its answer, in OpenAI's shapes; the defaults restrict nothing."""

    response_format: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] = field(default=())
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool = True


class GrammarCompiler:
    """Compiles requests for one tokenizer. Made once at load (0.3 s for 32,768 tokens).

    `compile` takes milliseconds for a common schema and at most about a second for the worst that is not refused, most of it without the GIL:
    call it in a worker thread (`asyncio.to_thread`), never on the event loop or the engine thread.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, vocab_size: int | None = None) -> None:
        """`vocab_size`: the width of the model's logits, if wider than the tokenizer."""
        raise NotImplementedError

    def compile(self, request: GrammarRequest) -> Callable[[], TokenConstraint] | None:
        """None: nothing to constrain. Each call of what is returned makes a fresh state for one row.

        Raises RequestError (param `response_format` or `tools[i].function.parameters`) for a schema that is wrong,
        not supported, or too large.
        """
        raise NotImplementedError
