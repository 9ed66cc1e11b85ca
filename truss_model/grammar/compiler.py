"""response_format and tool use -> one token mask a step for a row (llguidance). Knows no torch and no wire."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from truss_model.engine.params import TokenConstraint
from truss_model.errors import GenerationFailed, RequestError
from truss_model.grammar_text import calls_answer, json_answer, json_rule
from truss_model.json_schema import check_schema
from truss_model.prompt import ChatTokenizer
from truss_model.tools import NO_TOOLS, ToolUse

# What one grammar and one mask may cost, so that the worst that is not refused takes some milliseconds of a step and
# 50 MB: about 14,000 fuel and 20,000 items a millisecond, 2 kB a lexer state.
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

    `compile` takes milliseconds for a common schema and some tenths of a second for the worst that is not refused,
    without the interpreter's lock: call it in a worker thread (`asyncio.to_thread`), never on the event loop or the
    engine thread. Several may run at once.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._format = tokenizer.tool_format
        self._leading_space = bool(tokenizer.vocabulary.space_marked)
        self._eos_token_ids = sorted(tokenizer.eos_token_ids)
        self._mask_words = (tokenizer.vocab_size + 31) // 32
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(tokenizer)), n_vocab=tokenizer.vocab_size, eos_token=self._eos_token_ids
        )

    def compile(
        self, response_format: object = None, tools: ToolUse = NO_TOOLS
    ) -> Callable[[], TokenConstraint] | None:
        """None: nothing to constrain. Each call of what is returned makes a fresh state for one row.

        Constrained are JSON answers, calls that must be made, and any answer while a callable tool is strict. An answer
        that may be a call or JSON is one of both. Raises RequestError (param `response_format` or
        `tools[i].function.parameters`) for a schema that is wrong, not supported, or too large.
        """
        rule = None if tools.mode == "required" else _response_rule(response_format)
        if rule is not None:
            alone = self._matcher(json_answer(rule, leading_space=self._leading_space), "response_format")
            if tools.callable:
                return self._states(self._calls(tools, rule), "tools")
            return self._states(alone, "response_format")
        if tools.mode == "required":
            return self._states(self._calls(tools, None), "tools")
        if any(tool.strict for tool in tools.callable):
            return self._states(self._calls(tools, "text"), "tools")
        return None

    def _calls(self, tools: ToolUse, instead: str | None) -> LLMatcher:
        if self._format is None:
            raise RequestError("This model cannot call tools.", param="tools", code="unsupported_parameter")
        space = self._leading_space
        whole = calls_answer(tools.callable, self._format, tools.parallel, leading_space=space, instead=instead)
        try:
            return self._matcher(whole, "tools")
        except RequestError:
            for tool in tools.callable:
                alone = calls_answer([tool], self._format, False, leading_space=space)
                self._matcher(alone, f"{tool.path}.function.parameters")
            raise

    def _matcher(self, grammar: str, param: str) -> LLMatcher:
        """Compile, and try some steps: what is too complex often shows only then."""
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), limits=_LIMITS, log_level=0)
        probe = matcher.deep_copy()
        for _ in range(_PROBE_STEPS):
            if probe.is_error():
                why = _reason(probe.get_error())
                raise RequestError(f"Invalid schema for '{param}': {why}", param=param, code="invalid_schema")
            allowed = np.frombuffer(probe.compute_bitmask(), dtype=np.uint8)
            if probe.is_stopped() or probe.is_error() or not allowed.any():
                continue
            probe.consume_token(int(np.argmax(np.unpackbits(allowed, bitorder="little"))))
        return matcher

    def _states(self, matcher: LLMatcher, param: str) -> Callable[[], TokenConstraint]:
        return lambda: _Constraint(matcher.deep_copy(), self._mask_words, param)


class _Constraint:
    """A `TokenConstraint`. An end-of-sequence token is allowed when the grammar is satisfied, never before."""

    def __init__(self, matcher: LLMatcher, mask_words: int, param: str) -> None:
        self._matcher = matcher
        self._mask_words = mask_words
        self._param = param

    def fill(self, words: npt.NDArray[np.int32]) -> None:
        mask = words[: self._mask_words]
        words[self._mask_words :] = 0
        if mask.size < self._mask_words or not mask.flags.c_contiguous:
            raise ValueError(f"A mask has {self._mask_words} words in a row, not {words.size}.")
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():  # a limit that the probe at the start did not meet: the schema's fault
            why = f"it cannot be followed to its end: {_reason(self._matcher.get_error())}"
            raise RequestError(f"Invalid schema for '{self._param}': {why}", param=self._param, code="invalid_schema")

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)
        if self._matcher.is_error():
            raise GenerationFailed(f"The answer's grammar failed: {_reason(self._matcher.get_error())}")


class _Tokens:
    """The tokenizer as llguidance wants it. Control tokens have no text: grammars name them by id."""

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


def _response_rule(response_format: object) -> str | None:
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return json_rule({"type": "object"}, strict=True)
    if kind != "json_schema" or not isinstance(response_format, Mapping):
        _refuse("response_format.type", "expected 'text', 'json_object' or 'json_schema'")
    named: Any = response_format.get("json_schema")
    if not isinstance(named, Mapping) or not isinstance(named.get("schema"), Mapping):
        _refuse("response_format.json_schema", "expected an object with 'name' and 'schema'")
    if not isinstance(named.get("strict"), bool | None):
        _refuse("response_format.json_schema.strict", "expected a boolean")
    check_schema(named["schema"], "response_format")
    return json_rule(named["schema"], strict=bool(named.get("strict")))


def _reason(error: str) -> str:
    """llguidance's message without its place in a grammar that the caller never saw."""
    first, *others = error.splitlines() or ["unknown"]
    detail = next((line for line in others if line.startswith("error: ")), "")  # of a regular expression
    return f"{first.split('failed to compile JSON schema: ')[-1]} {detail}".strip()[:300]


def _refuse(path: str, why: str) -> NoReturn:
    raise RequestError(f"Invalid value for '{path}': {why}.", param=path, code="invalid_value")
