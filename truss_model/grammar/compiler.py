"""response_format and tool use -> one token mask per row and step (llguidance). Knows no torch and no wire."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from truss_model.engine.sampling_params import TokenConstraint
from truss_model.errors import GenerationFailed, RequestError
from truss_model.grammar.rules import arguments_schema, calls_answer, json_answer, json_rule
from truss_model.grammar.schema import find_keyword
from truss_model.request.response_format import JsonFormat
from truss_model.request.tools import NO_TOOLS, ToolUse, tools_unsupported
from truss_model.request.validators import invalid_schema
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer

# Limits of one grammar and one mask: the worst that is accepted takes some milliseconds of a step and 50 MB, at about
# 14,000 fuel and 20,000 items per millisecond and 2 kB per lexer state.
_LIMITS = LLParserLimits(
    max_items_in_row=5_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=50_000,
    max_lexer_states=25_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
_PROBE_STEPS = 16


class GrammarCompiler:
    """Compiles requests for one tokenizer. Made once at load (0.3 s for 32,768 tokens).

    `compile` takes milliseconds for a common schema and some tenths of a second for the worst that is accepted, without
    the interpreter's lock: call it in a worker thread (`Service` does), never on the event loop or the engine
    thread. Several may run at once.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._format = tokenizer.tool_format
        self._leading_space = bool(tokenizer.vocabulary.space_marked)
        self._eos_token_ids = sorted(tokenizer.eos_token_ids)
        self._mask_words = (tokenizer.vocab_size + 31) // 32
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(tokenizer)), n_vocab=tokenizer.vocab_size, eos_token=self._eos_token_ids
        )

    def compile(self, response_format: JsonFormat | None = None, tools: ToolUse = NO_TOOLS) -> "CompiledGrammar | None":
        """None: nothing to constrain.

        JSON answers and required calls are constrained, and every answer if a callable tool is strict. With a JSON
        format and callable tools the answer is either JSON or calls. Raises RequestError (param `response_format` or
        `tools[i].function.parameters`) for a schema that is invalid, not supported, or too large.
        """
        if response_format is not None and tools.mode != "required":
            rule = json_rule(response_format.schema, strict=response_format.strict)
            answer = json_answer(rule, leading_space=self._leading_space)
            alone = self._tried(answer, "response_format", response_format.schema)
            if tools.callable:
                return self._calls(tools, rule)
            return alone
        if tools.mode == "required":
            return self._calls(tools, None)
        if any(tool.strict for tool in tools.callable):
            return self._calls(tools, "text")
        return None

    def _calls(self, tools: ToolUse, instead: str | None) -> "CompiledGrammar":
        if self._format is None:
            raise tools_unsupported()
        space = self._leading_space
        whole = calls_answer(tools.callable, self._format, tools.parallel, leading_space=space, instead=instead)
        try:
            return self._tried(whole, "tools")
        except RequestError:
            for tool in tools.callable:
                alone = calls_answer([tool], self._format, False, leading_space=space)
                self._tried(alone, f"{tool.path}.function.parameters", arguments_schema(tool))
            raise

    def restore(self, source: tuple[str, str]) -> "CompiledGrammar":
        """What `compile` made in another process; it is not tried again."""
        return self._compiled(*source)

    def _tried(self, text: str, param: str, schema: Mapping[str, Any] | None = None) -> "CompiledGrammar":
        """Compile, and try some steps: often only they show that a grammar is too complex."""
        grammar = self._compiled(text, param)
        probe = grammar.matcher.deep_copy()
        for _ in range(_PROBE_STEPS):
            if probe.is_error():
                raise invalid_schema(param, _reason(probe.get_error(), schema or {}))
            allowed = np.frombuffer(probe.compute_bitmask(), dtype=np.uint8)
            if probe.is_stopped() or probe.is_error() or not allowed.any():
                continue
            probe.consume_token(int(np.argmax(np.unpackbits(allowed, bitorder="little"))))
        return grammar

    def _compiled(self, text: str, param: str) -> "CompiledGrammar":
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(text), limits=_LIMITS, log_level=0)
        return CompiledGrammar(matcher, (text, param), self._mask_words)


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """An engine's `Grammar`. `source`: its text, and the parameter of the request that it comes from."""

    matcher: LLMatcher
    source: tuple[str, str]
    mask_words: int

    def __call__(self) -> TokenConstraint:
        return _Constraint(self.matcher.deep_copy(), self.mask_words, self.source[1])


class _Constraint:
    """A `TokenConstraint`. An end-of-sequence token is allowed only when the grammar is satisfied."""

    def __init__(self, matcher: LLMatcher, mask_words: int, param: str) -> None:
        self._matcher = matcher
        self._mask_words = mask_words
        self._param = param

    def fill(self, words: npt.NDArray[np.int32]) -> None:
        mask = np.empty(self._mask_words, np.int32)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        # Either may have ids that the other lacks: models round up, and Gemma 3's tokenizers have one more, for images.
        shared = min(words.size, mask.size)
        words[:shared], words[shared:] = mask[:shared], 0
        if self._matcher.is_error():  # a limit that the probe did not reach: the schema's fault
            why = f"it cannot be followed to its end: {_reason(self._matcher.get_error())}"
            raise invalid_schema(self._param, why)

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)
        if self._matcher.is_error():
            raise GenerationFailed(f"The answer's grammar failed: {_reason(self._matcher.get_error())}")


class _Tokens:
    """The tokenizer in llguidance's form. Control tokens have no text: grammars name them by id."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        vocabulary = tokenizer.vocabulary
        self.special_token_ids = sorted(vocabulary.special_ids)
        self.tokens = [
            f"<control_{index}>".encode() if vocabulary.is_special(index) else vocabulary.token_bytes(index)
            for index in range(tokenizer.vocab_size)
        ]
        self.eos_token_id = min(tokenizer.eos_token_ids)
        self.bos_token_id = None
        self._encode = tokenizer.encode_ordinary

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _reason(error: str, schema: Mapping[str, Any] | None = None) -> str:
    """llguidance's message with the place in the schema, not in a grammar that the caller has not seen."""
    if "NoExtensionBias" in error:
        return "a '$ref' refers to itself, directly or through other references"
    if schema and (keys := re.search(r"Unimplemented keys: (\[.*\])", error)):
        found = {key: find_keyword(schema, key) for key in json.loads(keys[1])}
        named = (f"'{key}' at '{path}'" for key, path in found.items() if path is not None)
        return f"not supported: {', '.join(named)}"[:300]
    if schema and (unknown := re.search(r"Unknown format: (\S+)", error)):
        return f"unknown format '{unknown[1]}' at '{find_keyword(schema, 'format', unknown[1])}'"[:300]
    first, *others = error.splitlines() or ["unknown"]
    detail = next((line for line in others if line.startswith("error: ")), "")  # of a regular expression
    return f"{first.split('failed to compile JSON schema: ')[-1]} {detail}".strip()[:300].rstrip(".")
