"""The body of a predict call -> PredictRequest, or RequestError naming the field.

Checks every field by itself and against the others; what stands inside a message is checked where it is encoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from truss_model.engine.params import SamplingParams
from truss_model.fields import (
    check_array,
    check_decimal,
    check_integer,
    check_text,
    missing,
    unknown,
    wrong_type,
    wrong_value,
)
from truss_model.tools import ToolUse, parse_tool_use

INT64 = 2**63


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What of the model a body is checked against."""

    vocab_size: int
    maximum_max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """One predict call. Exactly one of `messages` and `prompt` is there; `max_tokens` None: as many as fit.

    `sampling.max_tokens` and `sampling.constraint` are not set yet: they depend on the encoded prompt.
    """

    messages: Sequence[Mapping[str, Any]] | None
    prompt: str | tuple[int, ...] | None
    sampling: SamplingParams
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    continue_final_message: bool = False
    tools: ToolUse = field(default_factory=ToolUse)
    response_format: Mapping[str, Any] | None = None

    @property
    def continues_text(self) -> bool:
        """Whether the answer goes on with text that the caller wrote."""
        if self.messages is None or self.continue_final_message:
            return True
        return self.messages[-1].get("prefix") is True


FIELDS = frozenset(
    "messages prompt max_tokens max_new_tokens temperature top_p top_k min_p presence_penalty frequency_penalty "
    "repetition_penalty min_tokens ignore_eos stop seed n logit_bias logprobs top_logprobs response_format tools "
    "tool_choice parallel_tool_calls stream continue_final_message".split()
)


def parse_request(body: object, limits: RequestLimits) -> PredictRequest:
    """Check the whole body. null is absent; a field that the contract does not know is an error."""
    if not isinstance(body, Mapping):
        raise wrong_type("body", "an object", body)
    for name in body:
        if name not in FIELDS:
            raise unknown(str(name)[:64])
    fields = {name: value for name, value in body.items() if value is not None}
    messages, prompt = _input(fields, limits)
    max_tokens = _max_tokens(fields, limits)
    return PredictRequest(
        messages=messages,
        prompt=prompt,
        sampling=_sampling(fields, limits, max_tokens),
        max_tokens=max_tokens,
        n=_integer(fields, "n", 1, 1, 128),
        stop=_stop(fields),
        stream=_boolean(fields, "stream"),
        continue_final_message=_boolean(fields, "continue_final_message"),
        tools=_tools(fields),
        response_format=_response_format(fields),
    )


def _input(
    fields: Mapping[str, Any], limits: RequestLimits
) -> tuple[Sequence[Mapping[str, Any]] | None, str | tuple[int, ...] | None]:
    if "messages" not in fields and "prompt" not in fields:
        raise missing("messages")
    if "prompt" not in fields:
        return _messages(fields["messages"]), None
    for name in ("messages", "tools", "continue_final_message"):
        if name in fields:
            raise wrong_value(name, "it cannot be given together with 'prompt'.")
    prompt = fields["prompt"]
    if isinstance(prompt, str):
        return None, check_text(prompt, "prompt")
    ids = check_array(prompt, "prompt", "token ids, or a string", shortest=1)
    return None, tuple(check_integer(id_, f"prompt[{i}]", 0, limits.vocab_size - 1) for i, id_ in enumerate(ids))


def _messages(value: object) -> Sequence[Mapping[str, Any]]:
    messages = check_array(value, "messages", "objects", shortest=1)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise wrong_type(f"messages[{index}]", "an object", message)
    return messages


def _max_tokens(fields: Mapping[str, Any], limits: RequestLimits) -> int | None:
    given = [name for name in ("max_tokens", "max_new_tokens") if name in fields]
    if not given:
        return None
    if len(given) == 2:
        raise wrong_value("max_new_tokens", "it is another name of 'max_tokens'; give one of them.")
    return check_integer(fields[given[0]], given[0], 1, limits.maximum_max_tokens or INT64 - 1)


def _sampling(fields: Mapping[str, Any], limits: RequestLimits, max_tokens: int | None) -> SamplingParams:
    min_tokens = _integer(fields, "min_tokens", 0, 0, INT64 - 1)
    if max_tokens is not None and min_tokens > max_tokens:
        raise wrong_value("min_tokens", f"it is {min_tokens}, above 'max_tokens', which is {max_tokens}.")
    return SamplingParams(
        temperature=_decimal(fields, "temperature", 1.0, 0, 2),
        top_p=_decimal(fields, "top_p", 1.0, 0, 1),
        top_k=max(0, _integer(fields, "top_k", 0, -1, INT64 - 1)),  # -1 is another way to say off
        min_p=_decimal(fields, "min_p", 0.0, 0, 1),
        presence_penalty=_decimal(fields, "presence_penalty", 0.0, -2, 2),
        frequency_penalty=_decimal(fields, "frequency_penalty", 0.0, -2, 2),
        repetition_penalty=_decimal(fields, "repetition_penalty", 1.0, 0.01, 100),
        logit_bias=_logit_bias(fields, limits),
        seed=_seed(fields),
        min_tokens=min_tokens,
        ignore_eos=_boolean(fields, "ignore_eos"),
        top_logprobs=_top_logprobs(fields),
    )


def _seed(fields: Mapping[str, Any]) -> int | None:
    return check_integer(fields["seed"], "seed", -INT64, INT64 - 1) if "seed" in fields else None


def _top_logprobs(fields: Mapping[str, Any]) -> int | None:
    wanted = _boolean(fields, "logprobs")
    top = _integer(fields, "top_logprobs", 0, 0, 20)
    if not wanted and "top_logprobs" in fields:
        raise wrong_value("top_logprobs", "it is only allowed when 'logprobs' is true.")
    return top if wanted else None


def _logit_bias(fields: Mapping[str, Any], limits: RequestLimits) -> Mapping[int, float]:
    given = fields.get("logit_bias", {})
    if not isinstance(given, Mapping):
        raise wrong_type("logit_bias", "an object", given)
    bias: dict[int, float] = {}
    for key, value in given.items():
        text = str(key)
        # The id's one spelling: no sign, no leading zero, no digits of other scripts; short, so that int() is cheap.
        if not (text.isascii() and text.isdigit() and len(text) <= 9) or str(int(text)) != text:
            raise wrong_value("logit_bias", f"its keys must be token ids, but one is '{text[:32]}'.")
        if int(text) >= limits.vocab_size:
            raise wrong_value(
                "logit_bias", f"token id {text} does not exist; the vocabulary has {limits.vocab_size} ids."
            )
        bias[int(text)] = check_decimal(value, f"logit_bias.{text}", -100, 100)
    return bias


def _stop(fields: Mapping[str, Any]) -> tuple[str, ...]:
    given = fields.get("stop", ())
    if isinstance(given, str):
        given = (given,)
        names = ["stop"]
    else:
        given = check_array(given, "stop", "strings, or a string", longest=4)
        names = [f"stop[{index}]" for index in range(len(given))]
    for name, value in zip(names, given, strict=True):
        if check_text(value, name) == "":
            raise wrong_value(name, "an empty string can stop nothing.")
    return tuple(given)


def _tools(fields: Mapping[str, Any]) -> ToolUse:
    parallel = fields.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise wrong_type("parallel_tool_calls", "a boolean", parallel)
    if parallel is not None and "tools" not in fields:
        raise wrong_value("parallel_tool_calls", "it is only allowed when 'tools' are given.")
    if "tools" in fields:
        check_array(fields["tools"], "tools", "objects", shortest=1, longest=128)
    return parse_tool_use(fields.get("tools"), fields.get("tool_choice"), parallel)


def _response_format(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    given = fields.get("response_format")
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise wrong_type("response_format", "an object", given)
    if "type" not in given:
        raise missing("response_format.type")
    kind = given["type"]
    if kind not in ("text", "json_object", "json_schema"):
        why = f"'{str(kind)[:64]}' is not one of 'text', 'json_object' and 'json_schema'."
        raise wrong_value("response_format.type", why)
    if kind == "json_schema" and not isinstance(given.get("json_schema"), Mapping):
        if given.get("json_schema") is None:
            raise missing("response_format.json_schema")
        raise wrong_type("response_format.json_schema", "an object", given["json_schema"])
    return None if kind == "text" else given


def _integer(fields: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    return check_integer(fields[name], name, low, high) if name in fields else default


def _decimal(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    return check_decimal(fields[name], name, low, high) if name in fields else default


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value
