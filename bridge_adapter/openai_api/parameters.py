"""The parameters that several operations share: OpenAI's, and those that HF and vLLM users add.

A new sampling parameter is one line in SAMPLING: checks, /docs, the predict body and all operations follow from it.
"""

from collections.abc import Mapping
from typing import Any

from bridge_adapter.contract import StreamOptions
from bridge_adapter.errors import InvalidRequest, unsupported_parameter
from bridge_adapter.openai_api import validators
from bridge_adapter.openai_api.parameter import (
    Kind,
    Parameter,
    Parameters,
    boolean,
    decimal,
    integer,
    only,
    refused,
    string,
    without_effect,
)
from bridge_adapter.openai_api.validators import Check


def never(value: Any, param: str) -> bool:
    if validators.boolean(value, param):
        raise unsupported_parameter(param)
    return False


def never_stored(value: Any, param: str) -> bool:
    if validators.boolean(value, param):
        validators.drop_or_raise(param, unsupported_parameter(param))
    return False


def check_stop(value: Any, param: str) -> list[str]:
    if isinstance(value, str):
        return [_stop_string(value, param)]
    if not isinstance(value, list):
        raise validators.wrong_type(param, "one of a string or array of strings", value)
    items = validators.array(value, param, of="strings", shortest=0)
    return [_stop_string(item, f"{param}[{i}]") for i, item in enumerate(items)]


def _stop_string(value: Any, param: str) -> str:
    if validators.string(value, param) == "":
        raise InvalidRequest(
            f"Invalid '{param}': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
            param=param,
            code="empty_string",
        )
    return str(value)


def check_logit_bias(value: Any, param: str) -> dict[str, float]:
    within = validators.decimal(-100, 100)
    for token, bias in validators.mapping(value, param).items():
        if not (token.isascii() and token.isdigit()):
            raise InvalidRequest(
                f"Invalid key in '{param}': '{token[:50]}'. Expected a token id, which is an integer of 0 or more.",
                param=param,
                code="invalid_value",
            )
        within(bias, f"{param}.{token}")
    return dict(value)


def check_metadata(value: Any, param: str) -> dict[str, str]:
    if len(validators.mapping(value, param)) > 16:
        raise InvalidRequest(
            f"Invalid '{param}': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(value)} properties instead.",
            param=param,
            code="object_above_max_properties",
        )
    for name, item in value.items():
        validators.text(64)(name, param)
        validators.text(512)(item, f"{param}.{name}")
    return dict(value)


def check_stream_options(value: Any, param: str) -> dict[str, bool]:
    return validators.shape(value, param, _STREAM_OPTIONS)


def _top_k(value: Any, param: str) -> int:
    number: int = validators.integer(-1)(value, param)
    return max(number, 0)  # vLLM's users write -1 for off


_STREAM_OPTIONS: dict[str, Check] = dict.fromkeys(
    ("include_usage", "include_obfuscation", "continuous_usage_stats"), validators.boolean
)
MAX_TOKENS = "Maximum number of tokens to generate."  # 0 with log probabilities of the prompt only
SAME_AS_MAX_TOKENS = "The same as max_tokens."


def token_limit(text: str) -> Kind:
    """Its minimum depends on the other fields, see `check_token_limits`."""
    return validators.integer(-(2**63)), integer(0, text=text)[1]


SAMPLING = Parameters(
    Parameter("temperature", *decimal(0, 2, "Sampling temperature; 0 is greedy."), in_responses=True),
    Parameter("top_p", *decimal(0, 1, "Nucleus sampling: the probability mass to sample from."), in_responses=True),
    Parameter("presence_penalty", *decimal(-2, 2, "Penalty on tokens that the answer contains.")),
    Parameter("frequency_penalty", *decimal(-2, 2, "Penalty on tokens by their count in the answer.")),
    Parameter(
        "logit_bias",
        check_logit_bias,
        {
            "type": ["object", "null"],
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "description": "Bias by token id.",
        },
    ),
    Parameter("seed", *integer(-(2**63), text="The same seed and request give the same tokens.")),
    Parameter(
        "stop",
        check_stop,
        {
            "anyOf": [
                {"type": "null"},
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
            ],
            "description": "Up to four strings that end the answer, or more if the model's settings say so. "
            "They are not part of the answer.",
        },
        neutral=[],
    ),
    Parameter("n", *integer(1, 128, "Number of choices."), neutral=1),
    Parameter("max_tokens", *token_limit(MAX_TOKENS)),
    Parameter(
        "top_k",
        _top_k,
        integer(-1, text="Number of likeliest tokens to sample from; 0 or -1: all. Not OpenAI's.")[1],
        in_responses=True,
    ),
    Parameter(
        "min_p",
        *decimal(0, 1, "Lowest probability, relative to the likeliest token's. Not OpenAI's."),
        in_responses=True,
    ),
    Parameter(
        "repetition_penalty",
        *decimal(0.01, 100, "Penalty on tokens of the prompt and the answer; 1 is none. Not OpenAI's."),
        in_responses=True,
    ),
    Parameter("min_tokens", *integer(0, text="Minimum number of tokens to generate. Not OpenAI's."), in_responses=True),
    Parameter("ignore_eos", *boolean("Generate on after an end-of-sequence token. Not OpenAI's."), in_responses=True),
)
MAX_NEW_TOKENS = Parameter(
    "max_new_tokens", *token_limit(f"{SAME_AS_MAX_TOKENS} Not OpenAI's."), predict_name="max_tokens"
)
PROMPT_LOGPROBS = Parameter(
    "prompt_logprobs",
    *integer(
        0,
        20,
        "Return the log probabilities of the prompt's tokens, with this number of likeliest tokens at each position. "
        "max_tokens may be 0 then. Not OpenAI's.",
    ),
)
MODEL = without_effect(
    "model",
    validators.string,
    {"type": "string", "description": "A name of /v1/models; not needed where the path names a deployment."},
)
STREAM = Parameter("stream", *boolean("Send the answer as server-sent events."), neutral=False)
STREAM_OPTIONS = Parameter(
    "stream_options",
    check_stream_options,
    {
        "type": ["object", "null"],
        "properties": {name: {"type": ["boolean", "null"]} for name in _STREAM_OPTIONS},
        "additionalProperties": False,
    },
    in_predict=False,
)
USER = without_effect("user", *string("No effect."))
STORE = without_effect("store", never_stored, {"enum": [False, None], "description": "Nothing is stored."})
_TIERS = ("flex", "scale", "priority", "fast")
WITHOUT_EFFECT = Parameters(
    USER,
    without_effect(
        "metadata", check_metadata, {"type": ["object", "null"], "maxProperties": 16, "description": "No effect."}
    ),
    STORE,
    without_effect(
        "service_tier", *only("auto", "default", known=("flex", "scale", "priority", "fast"), droppable=True)
    ),
    without_effect("safety_identifier", *string("No effect.", longest=128)),
    without_effect("prompt_cache_key", *string("No effect.")),
    without_effect("prompt_cache_retention", *only("in_memory", known=("24h",), droppable=True)),
    refused("prompt_cache_options"),
    refused("moderation"),
)


def check_token_limits(checked: Mapping[str, Any], parameters: Parameters, *, least: int = 1) -> None:
    """Of several names for the same limit the values are equal, as some clients send them.

    `least`: 0 where log probabilities of the prompt are requested.
    """
    given = [name for name in parameters.token_limits if name in checked]
    if len(given) > 1 and len({checked[name] for name in given}) > 1:
        raise InvalidRequest(
            f"Setting '{given[0]}' and '{given[1]}' at the same time is not supported.",
            param=given[0],
            code="invalid_parameter_combination",
        )
    if given:
        validators.integer(least)(checked[given[0]], given[0])


def check_stream_pair(checked: Mapping[str, Any]) -> None:
    if "stream_options" in checked and not checked.get("stream"):
        raise only_with("stream_options", "stream", "enabled")


def check_prompt_logprobs(checked: Mapping[str, Any]) -> None:
    if "prompt_logprobs" in checked and checked.get("stream"):
        raise InvalidRequest(
            "'prompt_logprobs' is not available when 'stream' is enabled.",
            param="prompt_logprobs",
            code="invalid_parameter_combination",
        )


def only_with(field: str, needs: str, how: str) -> InvalidRequest:
    """The error of a field that has a meaning beside another one only."""
    verb = "are" if needs.endswith("s") and needs != "logprobs" else "is"
    return InvalidRequest(
        f"'{field}' is only allowed when '{needs}' {verb} {how}.", param=field, code="invalid_parameter_combination"
    )


_NO_STREAM_OPTIONS = StreamOptions()


def stream_options(checked: Mapping[str, Any]) -> StreamOptions:
    given = checked.get("stream_options")
    if not given:
        return _NO_STREAM_OPTIONS
    return StreamOptions(
        include_usage=given.get("include_usage", False),
        continuous_usage=given.get("continuous_usage_stats", False),
        obfuscation=given.get("include_obfuscation", False),
    )
