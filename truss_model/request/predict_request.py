"""The body of a predict call -> PredictRequest, or RequestError naming the field. Knows no tokenizer.

A new sampling parameter is one name in FIELDS and one line in `_sampling`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from truss_model.engine.sampling_params import SamplingParams
from truss_model.request.messages import Message, parse_messages
from truss_model.request.response_format import JsonFormat, parse_response_format
from truss_model.request.tools import ToolUse, parse_tool_use
from truss_model.request.validators import (
    check_array,
    check_boolean,
    check_choice,
    check_decimal,
    check_integer,
    check_known,
    check_object,
    check_string,
    missing,
    wrong_value,
)

INT64 = 2**63


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Properties of the model that a body is checked against."""

    vocab_size: int
    maximum_max_tokens: int | None = None
    continues_last_answer: bool = False


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """One predict call. Exactly one of `messages` and `prompt` is given; `max_tokens` None: as many as fit.

    `max_tokens_over_context` None: as the model's settings say.
    `sampling.max_tokens` and `sampling.constraint` are not set yet: they depend on the encoded prompt.
    """

    messages: Sequence[Message] | None
    prompt: str | tuple[int, ...] | None
    sampling: SamplingParams
    max_tokens: int | None = None
    max_tokens_over_context: str | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    tools: ToolUse = field(default_factory=ToolUse)
    response_format: JsonFormat | None = None

    @property
    def continues_text(self) -> bool:
        """Whether the answer continues text of the caller's: a raw prompt, or the last message."""
        return self.messages is None or self.messages[-1].prefix


FIELDS = frozenset(
    "messages prompt max_tokens max_new_tokens max_tokens_over_context temperature top_p top_k min_p presence_penalty "
    "frequency_penalty repetition_penalty min_tokens ignore_eos stop seed n logit_bias logprobs top_logprobs "
    "prompt_logprobs response_format tools tool_choice parallel_tool_calls stream continue_final_message".split()
)


def parse_request(body: object, limits: RequestLimits) -> PredictRequest:
    """Check the whole body. null means absent; an unknown field is an error."""
    given = check_object(body, "body")
    check_known(given, FIELDS)
    fields = {name: value for name, value in given.items() if value is not None}
    messages, prompt = _input(fields, limits)
    max_tokens = _max_tokens(fields, limits)
    return PredictRequest(
        messages=messages,
        prompt=prompt,
        sampling=_sampling(fields, limits, max_tokens),
        max_tokens=max_tokens,
        max_tokens_over_context=check_choice(
            fields["max_tokens_over_context"], "max_tokens_over_context", ("refuse", "clamp")
        )
        if "max_tokens_over_context" in fields
        else None,
        n=check_integer(fields.get("n", 1), "n", 1, 128),
        stop=_stop(fields),
        stream=check_boolean(fields.get("stream", False), "stream"),
        tools=parse_tool_use(fields.get("tools"), fields.get("tool_choice"), fields.get("parallel_tool_calls")),
        response_format=parse_response_format(fields.get("response_format")),
    )


def _input(
    fields: Mapping[str, Any], limits: RequestLimits
) -> tuple[Sequence[Message] | None, str | tuple[int, ...] | None]:
    if "messages" not in fields and "prompt" not in fields:
        raise missing("messages")
    if "prompt" not in fields:
        continued = check_boolean(fields.get("continue_final_message", False), "continue_final_message")
        always = limits.continues_last_answer
        return parse_messages(fields["messages"], continue_final_message=continued, continues_last_answer=always), None
    for name in ("messages", "tools", "continue_final_message"):
        if name in fields:
            raise wrong_value(name, "it cannot be given together with 'prompt'")
    prompt = fields["prompt"]
    if isinstance(prompt, str):
        return None, check_string(prompt, "prompt")
    ids = check_array(prompt, "prompt", "token ids, or a string", shortest=1)
    return None, tuple(check_integer(id_, f"prompt[{i}]", 0, limits.vocab_size - 1) for i, id_ in enumerate(ids))


def _max_tokens(fields: Mapping[str, Any], limits: RequestLimits) -> int | None:
    least, most = 0 if "prompt_logprobs" in fields else 1, limits.maximum_max_tokens or INT64 - 1
    names = ("max_tokens", "max_new_tokens")
    given = [check_integer(fields[name], name, least, most) for name in names if name in fields]
    if len(given) == 2 and given[0] != given[1]:
        raise wrong_value("max_new_tokens", "it is another name of 'max_tokens', which has another value")
    return given[0] if given else None


def _sampling(fields: Mapping[str, Any], limits: RequestLimits, max_tokens: int | None) -> SamplingParams:
    get = fields.get
    min_tokens = check_integer(get("min_tokens", 0), "min_tokens", 0, INT64 - 1)
    if max_tokens is not None and min_tokens > max_tokens:
        raise wrong_value("min_tokens", f"it is {min_tokens}, above 'max_tokens', which is {max_tokens}")
    return SamplingParams(
        temperature=check_decimal(get("temperature", 1.0), "temperature", 0, 2),
        top_p=check_decimal(get("top_p", 1.0), "top_p", 0, 1),
        top_k=max(0, check_integer(get("top_k", 0), "top_k", -1, INT64 - 1)),  # -1, too, means off
        min_p=check_decimal(get("min_p", 0.0), "min_p", 0, 1),
        presence_penalty=check_decimal(get("presence_penalty", 0.0), "presence_penalty", -2, 2),
        frequency_penalty=check_decimal(get("frequency_penalty", 0.0), "frequency_penalty", -2, 2),
        repetition_penalty=check_decimal(get("repetition_penalty", 1.0), "repetition_penalty", 0.01, 100),
        logit_bias=_logit_bias(fields, limits),
        seed=check_integer(fields["seed"], "seed", -INT64, INT64 - 1) if "seed" in fields else None,
        min_tokens=min_tokens,
        ignore_eos=check_boolean(get("ignore_eos", False), "ignore_eos"),
        top_logprobs=_top_logprobs(fields),
        prompt_logprobs=check_integer(fields["prompt_logprobs"], "prompt_logprobs", 0, 20)
        if "prompt_logprobs" in fields
        else None,
    )


def _top_logprobs(fields: Mapping[str, Any]) -> int | None:
    wanted = check_boolean(fields.get("logprobs", False), "logprobs")
    top = check_integer(fields.get("top_logprobs", 0), "top_logprobs", 0, 20)
    if not wanted and top:
        raise wrong_value("top_logprobs", "it is only allowed when 'logprobs' is true")
    return top if wanted else None


def _logit_bias(fields: Mapping[str, Any], limits: RequestLimits) -> Mapping[int, float]:
    bias: dict[int, float] = {}
    for key, value in check_object(fields.get("logit_bias", {}), "logit_bias").items():
        text = str(key)
        # The id's one spelling: no sign, no leading zero, no digits of other scripts; short, so that int() is cheap.
        if not (text.isascii() and text.isdigit() and len(text) <= 9) or str(int(text)) != text:
            raise wrong_value("logit_bias", f"its keys must be token ids, but one is '{text[:32]}'")
        if int(text) >= limits.vocab_size:
            why = f"token id {text} does not exist; the vocabulary has {limits.vocab_size} ids"
            raise wrong_value("logit_bias", why)
        bias[int(text)] = check_decimal(value, f"logit_bias.{text}", -100, 100)
    return bias


def _stop(fields: Mapping[str, Any]) -> tuple[str, ...]:
    given = fields.get("stop", ())
    if isinstance(given, str):
        named = {"stop": given}
    else:
        items = check_array(given, "stop", "strings, or a string", longest=64)
        named = {f"stop[{index}]": item for index, item in enumerate(items)}
    for name, text in named.items():
        if check_string(text, name) == "":
            raise wrong_value(name, "an empty string can stop nothing")
    return tuple(named.values())
