"""response_format and tool use -> one token mask a step for a row (llguidance). Knows no torch and no wire."""

from collections.abc import Callable

from truss_model.engine.params import TokenConstraint
from truss_model.prompt import ChatTokenizer
from truss_model.tools import NO_TOOLS, ToolUse


class GrammarCompiler:
    """Compiles requests for one tokenizer. Made once at load (0.3 s for 32,768 tokens).

    `compile` takes milliseconds for a common schema and some tenths of a second for the worst that is not refused:
    call it in a worker thread (`asyncio.to_thread`), never on the event loop or the engine thread.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        raise NotImplementedError

    def compile(
        self, response_format: object = None, tools: ToolUse = NO_TOOLS
    ) -> Callable[[], TokenConstraint] | None:
        """None: nothing to constrain. Each call of what is returned makes a fresh state for one row.

        Raises RequestError (param `response_format` or `tools[i].function.parameters`) for a schema that is wrong,
        not supported, or too large.
        """
        raise NotImplementedError
