"""Any other model's tokenizer: tokenizer.json and the chat template beside it, by transformers and tokenizers.

A template prints messages and control tokens into one string; this module keeps them apart.
"""

import copy
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from truss_model.errors import LoadError, RequestError
from truss_model.request.messages import Message
from truss_model.request.tools import NO_TOOLS, ToolUse
from truss_model.tokenizer.hermes import fold, function_object
from truss_model.tokenizer.tool_format import CALL_END, CALL_START, ToolFormat, ToolStyle
from truss_model.tokenizer.vocabulary import from_tokenizer_json, pieces_by_id

_MARKUP = re.compile(r"[<\[].*[>\]]", re.DOTALL)


class TemplateTokenizer:
    """A `ChatTokenizer` over a folder with a tokenizer.json.

    Tools go through the template if it writes calls as `<tool_call>` itself, else as text before it (`hermes`).
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._hf = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
            raw = json.loads(self._hf.backend_tokenizer.to_str())
        except (OSError, ValueError, KeyError) as error:
            raise LoadError(f"The tokenizer in {folder} cannot be read: {error}") from error
        control = [token for token in raw["added_tokens"] if token["special"] or _MARKUP.fullmatch(token["content"])]
        self._control_ids = {token["content"]: int(token["id"]) for token in control}
        self._find_control = _alternatives(control)
        self._spells_control = re.compile(f"(?={'|'.join(map(re.escape, self._control_ids))})")
        self._prefixes = {text[:size] for text in self._control_ids for size in range(1, len(text))}
        self._longest_prefix = max(map(len, self._prefixes), default=0)
        self._first, self._later = _without(raw, control)
        self._begin = _begin_of_sequence(self._hf.backend_tokenizer)
        self._writes_calls = CALL_START in str(self._hf.chat_template)  # one template, or several by name
        self.vocabulary = from_tokenizer_json(raw, text_tokens={CALL_START, CALL_END})
        self.vocab_size = len(self.vocabulary)
        self.eos_token_ids = _eos_token_ids(folder, self._hf.eos_token_id)
        if not self.eos_token_ids:
            raise LoadError(f"The tokenizer in {folder} names no end-of-sequence token: answers would not end.")
        self.tool_format: ToolFormat | None = ToolFormat(ToolStyle.HERMES)
        self.continues_last_answer = False

    def encode_chat(self, turns: Sequence[Message], tools: ToolUse = NO_TOOLS) -> list[int]:
        if self._hf.chat_template is None:
            raise RequestError("This model has no chat template: send 'prompt' instead.", param="messages")
        if self._writes_calls:
            chat: list[dict[str, Any]] = [_template_message(turn) for turn in turns]
            shown = [function_object(tool) for tool in tools.shown] or None
        else:
            chat, shown = [dict(message) for message in fold(turns, tools.shown)], None
        mark = _unused_character(json.dumps([chat, shown], ensure_ascii=False))
        try:
            text = self._hf.apply_chat_template(
                self._guarded(chat, mark),
                tools=self._guarded(shown, mark),
                tokenize=False,
                add_generation_prompt=not turns[-1].prefix,
                continue_final_message=turns[-1].prefix,
            )
        except (TemplateError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RequestError(
                f"Invalid 'messages' for this model's chat template: {str(error).splitlines()[0][:300]}",
                param="messages",
                code="invalid_value",
            ) from error
        return self._encode_rendered(str(text), mark)

    def encode_text(self, text: str) -> list[int]:
        return self._begin + list(self._first.encode(text, add_special_tokens=False).ids)

    def encode_ordinary(self, text: str) -> list[int]:
        return list(self._later.encode(text, add_special_tokens=False).ids)

    def _guarded(self, value: Any, mark: str) -> Any:
        """The same value with `mark` inside everything that spells a control token, or begins one at a string's end."""
        if isinstance(value, dict):
            return {self._guarded(key, mark): self._guarded(item, mark) for key, item in value.items()}
        if isinstance(value, list):
            return [self._guarded(item, mark) for item in value]
        if not isinstance(value, str) or not self._control_ids:
            return value
        cuts = {match.start() + 1 for match in self._spells_control.finditer(value)}
        cuts |= {
            len(value) - size + 1
            for size in range(1, min(len(value), self._longest_prefix) + 1)
            if value[-size:] in self._prefixes
        }
        for cut in sorted(cuts, reverse=True):
            value = value[:cut] + mark + value[cut:]
        return value

    def _encode_rendered(self, text: str, mark: str) -> list[int]:
        """Control tokens of the template become their ids; everything between them is plain text, without the marks."""
        ids: list[int] = []
        end = 0
        for match in self._find_control.finditer(text) if self._control_ids else ():
            ids += self._encode_between(text[end : match.start()], mark, first=end == 0)
            ids.append(self._control_ids[match.group(match.lastindex or 0)])
            end = match.end()
        return ids + self._encode_between(text[end:], mark, first=end == 0)

    def _encode_between(self, text: str, mark: str, *, first: bool) -> list[int]:
        if not text:
            return []
        encoder = self._first if first else self._later
        return list(encoder.encode(text.replace(mark, ""), add_special_tokens=False).ids)


def _template_message(turn: Message) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": "\n".join(turn.parts)}
    if turn.name is not None:
        message["name"] = turn.name
    if turn.call_id is not None:
        message["tool_call_id"] = turn.call_id
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _object(call.arguments)}}
            for call in turn.calls
        ]
    return message


def _object(arguments: str) -> Any:
    """Templates print arguments with `tojson`, so they get the object; arguments that are not one stay text."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _unused_character(text: str) -> str:
    """A private-use character that the request does not contain, removed again after the template has printed."""
    used = set(text)
    for code in chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)):
        if chr(code) not in used:
            return chr(code)
    raise RequestError("Invalid 'messages': too many private-use characters.", param="messages", code="invalid_value")


def _alternatives(control: Sequence[dict[str, Any]]) -> re.Pattern[str]:
    """Match as the tokenizer does: leftmost, longest, with the white space that the token absorbs."""
    longest_first = sorted(control, key=lambda token: -len(token["content"]))
    return re.compile(
        "|".join(
            (r"\s*" if token["lstrip"] else "")
            + f"({re.escape(token['content'])})"
            + (r"\s*" if token["rstrip"] else "")
            for token in longest_first
        )
    )


def _without(raw: dict[str, Any], control: Sequence[dict[str, Any]]) -> tuple[Tokenizer, Tokenizer]:
    """Tokenizers without control tokens: for text that begins a prompt, and for text after a control token.

    Added tokens outside the model's vocabulary are numbered by their place in the list: a control token among them is
    renamed to a random text, the others are left out.
    """
    in_vocabulary = set(pieces_by_id(raw["model"]["vocab"]).values())
    kept = [
        {**token, "content": secrets.token_hex(16)} if token in control else token
        for token in raw["added_tokens"]
        if token not in control or token["content"] not in in_vocabulary
    ]
    plain = {**raw, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
    plain["pre_tokenizer"] = copy.deepcopy(raw.get("pre_tokenizer"))
    first = later = Tokenizer.from_str(json.dumps(plain))
    prepending = [part for part in _parts(plain["pre_tokenizer"]) if part.get("prepend_scheme") == "first"]
    if prepending:
        for part in prepending:
            part["prepend_scheme"] = "never"
        later = Tokenizer.from_str(json.dumps(plain))
    return first, later


def _parts(component: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if component is not None:
        yield component
        yield from component.get("pretokenizers", ())


def _begin_of_sequence(tokenizer: Tokenizer) -> list[int]:
    """The ids that the post-processor puts before a text."""
    encoding = tokenizer.encode("a", add_special_tokens=True)
    return list(takewhile(lambda index: index not in tokenizer.encode("a", add_special_tokens=False).ids, encoding.ids))


def _eos_token_ids(folder: Path, eos: int | None) -> frozenset[int]:
    """The tokenizer's, and generation_config.json's, which may name several."""
    ids = set() if eos is None else {eos}
    file = folder / "generation_config.json"
    if file.is_file():
        named = json.loads(file.read_text()).get("eos_token_id")
        ids |= set(named) if isinstance(named, list) else {named} if isinstance(named, int) else set()
    return frozenset(ids)
