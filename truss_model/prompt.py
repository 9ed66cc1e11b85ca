"""Messages, tools and raw text -> token ids, by the tokenizer that a model's folder holds.

Text that a caller wrote never becomes a control token, whatever it spells.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from truss_model.tool_calls import ToolFormat
from truss_model.tools import ToolUse
from truss_model.vocabulary import Vocabulary

NO_TOOLS = ToolUse()


class ChatTokenizer(Protocol):
    """One model family's tokenizer. Safe to use from several threads; long prompts take milliseconds, so use one."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every id; `vocabulary.token_bytes(id)`, `vocabulary.is_special(id)`."""

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer knows; the model's logits may be wider."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end an answer."""

    @property
    def tool_format(self) -> ToolFormat | None:
        """How this family writes tool calls; None if it cannot."""

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: ToolUse = NO_TOOLS,
        *,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Encode OpenAI messages, and the tools that the model is shown, up to where the answer begins.

        `continue_final_message`, or `"prefix": true` in a last assistant message: the answer goes on with its text.
        Checks the messages itself: RequestError with `param` naming the field, e.g. `messages[1].content[0]`.
        """

    def encode_text(self, text: str) -> list[int]:
        """Encode the wire's `prompt` string as the vendor encodes plain text, with its begin-of-sequence token."""


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """Load the tokenizer in `folder`: tekken.json, tokenizer.model.vN, tokenizer.model (v1), else tokenizer.json.

    Raises LoadError naming what is missing. Takes up to some seconds.
    """
    raise NotImplementedError
