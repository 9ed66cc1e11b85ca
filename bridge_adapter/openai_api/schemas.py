"""JSON Schemas of the requests, for /docs. What is accepted is decided by the checks; a test holds the two together."""

from typing import Any


def _number(low: float, high: float, text: str) -> dict[str, Any]:
    return {"type": ["number", "null"], "minimum": low, "maximum": high, "description": text}


def _integer(low: int, high: int | None, text: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["integer", "null"], "minimum": low, "description": text}
    return schema if high is None else schema | {"maximum": high}


def _boolean(text: str) -> dict[str, Any]:
    return {"type": ["boolean", "null"], "description": text}


def _string(text: str) -> dict[str, Any]:
    return {"type": ["string", "null"], "description": text}


def _only(values: list[Any], text: str) -> dict[str, Any]:
    return {"enum": [*values, None], "description": text}


_SAMPLING: dict[str, Any] = {
    "temperature": _number(0, 2, "0 is greedy."),
    "top_p": _number(0, 1, "Nucleus sampling."),
    "presence_penalty": _number(-2, 2, "Over generated tokens."),
    "frequency_penalty": _number(-2, 2, "Over generated tokens."),
    "logit_bias": {
        "type": ["object", "null"],
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "description": "Token id to bias.",
    },
    "seed": _integer(-(2**63), 2**63 - 1, "The same seed and request give the same tokens."),
    "stop": {
        "anyOf": [{"type": "null"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 4}],
        "description": "Up to four strings that end the text; they are not shown.",
    },
    "n": _integer(1, 128, "How many choices."),
    "max_tokens": _integer(1, None, "At most so many tokens."),
    "top_k": _integer(-1, None, "Sample among so many tokens; 0 or -1: all. An HF extra."),
    "min_p": _number(0, 1, "An HF extra."),
    "repetition_penalty": _number(0.01, 100, "Over prompt and generated tokens. An HF extra."),
    "min_tokens": _integer(0, None, "No end before so many tokens. An HF extra."),
    "ignore_eos": _boolean("Go on after an end-of-sequence token. An HF extra."),
    "stream": _boolean("Send server-sent events."),
    "stream_options": {
        "type": ["object", "null"],
        "properties": {
            name: {"type": ["boolean", "null"]}
            for name in ("include_usage", "include_obfuscation", "continuous_usage_stats")
        },
        "additionalProperties": False,
    },
    "user": _string("No effect."),
}
_MODEL = {"model": {"type": "string", "description": "A name of /v1/models; not needed where the path holds an id."}}
_TOOLS: dict[str, Any] = {
    "type": ["array", "null"],
    "maxItems": 128,
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                    "description": {"type": "string"},
                    "parameters": {"type": "object"},
                    "strict": {"type": ["boolean", "null"]},
                },
            },
        },
    },
}
_HARMLESS: dict[str, Any] = {
    "metadata": {"type": ["object", "null"], "maxProperties": 16, "description": "No effect."},
    "store": _only([False], "Nothing is stored."),
    "service_tier": _only(["auto", "default"], "No effect."),
    "safety_identifier": _string("No effect."),
    "prompt_cache_key": _string("No effect."),
    "prompt_cache_retention": _only(["in_memory"], "No effect."),
}
_CHAT: dict[str, Any] = {
    **_MODEL,
    "messages": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
                "content": {"type": ["string", "array", "null"]},
            },
        },
    },
    **_SAMPLING,
    **_HARMLESS,
    "max_completion_tokens": _integer(1, None, "The same as max_tokens."),
    "max_new_tokens": _integer(1, None, "The same as max_tokens. An HF extra."),
    "logprobs": _boolean("Log-probabilities of the tokens shown."),
    "top_logprobs": _integer(0, 20, "So many alternatives a token."),
    "response_format": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {"type": "object", "required": ["name"]},
        },
    },
    "tools": _TOOLS,
    "tool_choice": {"type": ["string", "object", "null"]},
    "parallel_tool_calls": _boolean("Whether several calls may be made at once."),
    "functions": {"type": ["array", "null"], "maxItems": 128, "deprecated": True},
    "function_call": {"type": ["string", "object", "null"], "deprecated": True},
    "continue_final_message": _boolean("Go on with the last message, an assistant's. An HF extra."),
    "modalities": {"type": ["array", "null"], "items": {"enum": ["text"]}},
    "verbosity": _only(["medium"], "No effect."),
    "reasoning_effort": _only(["none"], "No effect."),
}
_COMPLETIONS: dict[str, Any] = {
    **_MODEL,
    "prompt": {"type": ["string", "array"], "description": "One prompt or several, as text or as token ids."},
    **_SAMPLING,
    "max_tokens": _integer(1, None, "At most so many tokens; 16 if not given."),
    "max_new_tokens": _integer(1, None, "The same as max_tokens. An HF extra."),
    "logprobs": _integer(0, 5, "Log-probabilities, with so many alternatives a token."),
    "echo": _boolean("Repeat the prompt before the text."),
    "best_of": _integer(1, 20, "Make so many choices, show the n likeliest."),
}
_RESPONSES: dict[str, Any] = {
    **_MODEL,
    "input": {"type": ["string", "array"], "description": "Text, or messages, function calls and their outputs."},
    "instructions": _string("Goes before the input as a system message."),
    "max_output_tokens": _integer(1, None, "At most so many tokens."),
    **{name: _SAMPLING[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    **{name: _SAMPLING[name] for name in ("min_tokens", "ignore_eos", "stream", "user")},
    **_HARMLESS,
    "stream_options": {"type": ["object", "null"], "properties": {"include_obfuscation": {"type": "boolean"}}},
    "text": {
        "type": ["object", "null"],
        "properties": {"format": {"type": "object"}, "verbosity": _only(["medium"], "")},
    },
    "tools": {"type": ["array", "null"], "maxItems": 128, "items": {"type": "object"}},
    "tool_choice": {"type": ["string", "object", "null"]},
    "parallel_tool_calls": _boolean("Whether several calls may be made at once."),
    "top_logprobs": _integer(0, 20, "So many alternatives a token."),
    "include": {"type": ["array", "null"], "items": {"type": "string"}},
    "reasoning": {"type": ["object", "null"], "properties": {"effort": _only(["none"], "No effect.")}},
    "background": _only([False], "No effect."),
    "truncation": _only(["disabled"], "No effect."),
}


def _request(properties: dict[str, Any], required: str, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [required],
        "properties": properties,
        "additionalProperties": False,
        "example": {"model": "mistral-7b", **example},
    }


REQUESTS: dict[str, dict[str, Any]] = {
    "/chat/completions": _request(_CHAT, "messages", {"messages": [{"role": "user", "content": "Hello!"}]}),
    "/completions": _request(_COMPLETIONS, "prompt", {"prompt": "Once upon a time", "max_tokens": 32}),
    "/responses": _request(_RESPONSES, "input", {"input": "Hello!"}),
}
STREAM_EXAMPLE = {
    "/chat/completions": 'data: {"object": "chat.completion.chunk", ...}\n\ndata: [DONE]\n\n',
    "/completions": 'data: {"object": "text_completion", ...}\n\ndata: [DONE]\n\n',
    "/responses": 'event: response.output_text.delta\ndata: {"delta": "Hi", ...}\n\n',
}
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
