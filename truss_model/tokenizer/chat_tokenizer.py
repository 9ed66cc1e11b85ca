"""Messages, tools and raw text -> token ids, by the tokenizer that a model's folder holds.

Text that a caller wrote never becomes a control token, whatever it spells.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from truss_model.errors import LoadError
from truss_model.request.messages import Message
from truss_model.request.tools import NO_TOOLS, ToolUse
from truss_model.tokenizer.mistral import MistralTokenizer
from truss_model.tokenizer.template import TemplateTokenizer
from truss_model.tokenizer.tool_format import ToolFormat
from truss_model.tokenizer.vocabulary import Vocabulary


class ChatTokenizer(Protocol):
    """One model family's tokenizer. Safe to use from several threads; long prompts take milliseconds, so use one."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every id; `vocabulary.token_bytes(id)`, `vocabulary.is_special(id)`."""

    @property
    def vocab_size(self) -> int:
        """The number of ids of the tokenizer; the model's logits may be wider."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end an answer."""

    @property
    def tool_format(self) -> ToolFormat | None:
        """How this family writes tool calls; None if it cannot."""

    @property
    def continues_last_answer(self) -> bool:
        """Whether a last assistant turn is continued in any case, as this family's prompts can hold nothing else."""

    def encode_chat(self, turns: Sequence[Message], tools: ToolUse = NO_TOOLS) -> list[int]:
        """Encode a chat, and the tools that the model is shown, up to where the answer begins.

        The answer continues a last turn that is a `prefix`. Raises RequestError (`messages`, `tools`) for what this
        family's prompts cannot hold.
        """

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids whose bytes are `text`, as within an answer: no begin-of-sequence token, no leading space."""

    def encode_text(self, text: str) -> list[int]:
        """Encode the wire's `prompt` string as the vendor encodes plain text, with its begin-of-sequence token."""


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """Load the tokenizer in `folder`: tekken.json, tokenizer.model.vN, tokenizer.json, tokenizer.model (v1).

    Raises LoadError naming what is missing. Takes up to some seconds.
    """
    mistral = [folder / "tekken.json", *sorted(folder.glob("*.model.v*"), reverse=True)]
    for file in mistral:
        if file.is_file():
            return MistralTokenizer(file)
    if (folder / "tokenizer.json").is_file():
        return TemplateTokenizer(folder)
    if (folder / "tokenizer.model").is_file():
        return MistralTokenizer(folder / "tokenizer.model")
    raise LoadError(f"No tokenizer in {folder}: expected tekken.json, tokenizer.model.vN or tokenizer.json.")
