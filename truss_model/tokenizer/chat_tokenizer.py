"""Messages, tools and raw text -> token ids, by the tokenizer that a model's folder holds.

Text that a caller wrote never becomes a control token, whatever it spells.
"""

from pathlib import Path
from typing import Protocol

from truss_model.errors import LoadError
from truss_model.mistral_tokenizer import MistralTokenizer
from truss_model.template_tokenizer import TemplateTokenizer
from truss_model.tool_format import ToolFormat
from truss_model.tools import NO_TOOLS, ToolUse
from truss_model.vocabulary import Vocabulary


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
        messages: object,
        tools: ToolUse = NO_TOOLS,
        *,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Encode OpenAI messages, and the tools that the model is shown, up to where the answer begins.

        `continue_final_message`, or `"prefix": true` in a last assistant message: the answer goes on with its text.
        Checks the messages itself: RequestError with `param` naming the field, e.g. `messages[1].content[0]`.
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
