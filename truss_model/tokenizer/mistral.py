"""Mistral's own tokenizers, by their reference mistral-common: chats are encoded token for token as it encodes them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from mistral_common.exceptions import InvalidToolException, InvalidToolSchemaException, MistralCommonException
from mistral_common.protocol.instruct.chunk import TextChunk
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.base import Tokenizer, TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer as Reference
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from truss_model.errors import LoadError, RequestError
from truss_model.request.messages import Message
from truss_model.request.tools import NO_TOOLS, FunctionTool, ToolUse, tools_unsupported
from truss_model.tokenizer.tool_format import ToolFormat, ToolStyle
from truss_model.tokenizer.vocabulary import SPACE_MARK, Vocabulary, sentencepiece_bytes

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class MistralTokenizer:
    """A `ChatTokenizer` over a tekken.json or a SentencePiece file of Mistral's.

    Where Mistral's rules are narrower than OpenAI's: turns of the same role in a row are merged by the reference; an
    assistant's turn without content and calls is left out; before v7 a turn has content or calls, so the content of one
    that has both is left out, as is every `name`; a system turn after an assistant's or a tool's is put before the text
    of the next user turn, as the reference does with one between two user turns; a chat that begins with an answer gets
    an empty user turn before it; a last assistant turn is always continued, as in vLLM. What the reference refuses
    otherwise is refused with its message.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._reference = Reference.from_file(file, mode=ValidationMode.serving)
        except (MistralCommonException, ValueError, AssertionError, OSError, RuntimeError, KeyError) as error:
            raise LoadError(f"The tokenizer file {file} cannot be read: {error}") from error
        self._tokenizer: Tokenizer = self._reference.instruct_tokenizer.tokenizer
        self._version: TokenizerVersion = self._tokenizer.version
        self.vocabulary = _vocabulary(self._tokenizer)
        self.vocab_size = self._tokenizer.n_words
        self.eos_token_ids = frozenset({self._tokenizer.eos_id})
        self.tool_format = _tool_format(self._tokenizer)
        self.continues_last_answer = True

    def encode_chat(self, turns: Sequence[Message], tools: ToolUse = NO_TOOLS) -> list[int]:
        if tools.shown and self.tool_format is None:
            raise tools_unsupported()
        try:
            request: ChatCompletionRequest[Any] = ChatCompletionRequest(
                model="served",
                messages=list(self._turns(_fold_system(turns))),
                tools=[_tool(tool) for tool in tools.shown] or None,
            )
            return list(self._reference.encode_chat_completion(request).tokens)
        except (InvalidToolException, InvalidToolSchemaException) as error:
            raise RequestError(str(error), param="tools", code="invalid_value") from error
        except (MistralCommonException, ValueError, AssertionError, RecursionError) as error:
            raise RequestError(
                f"Invalid 'messages' for this model: {_first_line(error)}", param="messages", code="invalid_value"
            ) from error

    def encode_text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=True, eos=False)

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids whose bytes are just `text`: no begin-of-sequence token, no leading space."""
        if isinstance(self._tokenizer, SentencePieceTokenizer):
            # The encoder puts a space before the text, and merges nothing across the newline that is put before it.
            return self._tokenizer.encode("\n" + text, bos=False, eos=False)[2:]
        return self._tokenizer.encode(text, bos=False, eos=False)

    def _turns(self, turns: Sequence[Message]) -> Iterator[Any]:
        content_beside_calls = self._version >= TokenizerVersion.v7
        # The reference adds the empty turn itself, but not before calls and not before an answer that is continued.
        if turns[0].role == "assistant" and (_run_has_calls(turns, 0) or _all_answer(turns)):
            yield UserMessage(content="")
        for index, turn in enumerate(turns):
            content: Any = turn.parts[0] if len(turn.parts) == 1 else [TextChunk(text=text) for text in turn.parts]
            if turn.role == "system":
                yield SystemMessage(content=content)
            elif turn.role == "user":
                yield UserMessage(content=content or "")
            elif turn.role == "tool":
                yield ToolMessage(content=content or "", tool_call_id=call_id(turn.call_id or ""), name=turn.name)
            elif turn.calls or (content and (content_beside_calls or not _run_has_calls(turns, index))):
                calls = [
                    ToolCall(id=call_id(call.id), function=FunctionCall(name=call.name, arguments=call.arguments))
                    for call in turn.calls
                ]
                yield AssistantMessage(
                    content=content if content_beside_calls or not calls else None,
                    tool_calls=calls or None,
                    prefix=turn.prefix,
                )


def _fold_system(turns: Sequence[Message]) -> list[Message]:
    """The same chat without system turns behind an assistant's or a tool's: they become user text."""
    folded: list[Message] = []
    held: list[str] = []
    for turn in turns:
        if turn.role == "system" and folded and folded[-1].role in ("assistant", "tool"):
            held += turn.parts
            continue
        if held and turn.role == "user":
            first, *others = turn.parts or ("",)
            turn = replace(turn, parts=("\n\n".join([*held, *filter(None, [first])]), *others))
        elif held:
            folded.append(Message("user", ("\n\n".join(held),)))
        held = []
        folded.append(turn)
    return [*folded, Message("user", ("\n\n".join(held),))] if held else folded


def _all_answer(turns: Sequence[Message]) -> bool:
    return all(turn.role == "assistant" for turn in turns)


def _run_has_calls(turns: Sequence[Message], index: int) -> bool:
    """Whether an assistant's turn next to this one, which the reference will merge with it, has calls."""
    before = takewhile(lambda turn: turn.role == "assistant", reversed(turns[:index]))
    after = takewhile(lambda turn: turn.role == "assistant", turns[index:])
    return any(turn.calls for turn in (*before, *after))


def call_id(text: str) -> str:
    """A client's tool call id as Mistral's format wants it, nine letters or digits; the same text gives the same id."""
    if len(text) == 9 and text.isascii() and text.isalnum():
        return text
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return "".join(_BASE62[number // 62**place % 62] for place in range(9))


def _tool(tool: FunctionTool) -> Tool:
    parameters = dict(tool.parameters or {})
    return Tool(
        function=Function(name=tool.name, description=tool.description, parameters=parameters, strict=tool.strict)
    )


def _tool_format(tokenizer: Tokenizer) -> ToolFormat | None:
    if tokenizer.version < TokenizerVersion.v2:
        return None
    calls = tokenizer.get_special_token("[TOOL_CALLS]")
    if tokenizer.version < TokenizerVersion.v11:
        return ToolFormat(ToolStyle.MISTRAL_LIST, calls)
    args, call_id_id = tokenizer.get_special_token("[ARGS]"), tokenizer.get_special_token("[CALL_ID]")
    return ToolFormat(ToolStyle.MISTRAL_ARGS, calls, args, call_id_id)


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    special = frozenset(index for index in range(tokenizer.n_words) if tokenizer.is_special(index))
    names = {index: tokenizer.id_to_piece(index) for index in special}
    if isinstance(tokenizer, Tekkenizer):
        tokens = [tokenizer.id_to_byte_piece(index) for index in range(tokenizer.n_words)]
        return Vocabulary(tokens, special, control_names=names)
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise LoadError(f"{type(tokenizer).__name__} is neither tekken nor SentencePiece.")
    pieces = [tokenizer.id_to_piece(index) for index in range(tokenizer.n_words)]
    pieces[tokenizer.unk_id] = tokenizer.decode([tokenizer.unk_id])
    tokens = [b"" if index in special else sentencepiece_bytes(piece) for index, piece in enumerate(pieces)]
    marked = frozenset(index for index, piece in enumerate(pieces) if piece.startswith(SPACE_MARK))
    return Vocabulary(tokens, special, marked, replace_each_byte=True, control_names=names)


def _first_line(error: BaseException) -> str:
    """The reference puts whole messages and pydantic's hints on later lines."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
