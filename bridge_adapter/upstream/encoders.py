"""Job -> bodies to post in an upstream's dialect: one call a body, or one a choice where a Truss returns one only."""

from typing import Any

from bridge_adapter.contract import Job
from bridge_adapter.errors import unsupported_parameter
from bridge_adapter.settings import Dialect

_NEEDS_THE_MODEL = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "logit_bias",
    "min_tokens",
    "ignore_eos",
)
_DONE_BY_THE_ADAPTER = ("n", "stop", "response_format")


def encode(job: Job, dialect: Dialect, upstream_model: str) -> list[dict[str, Any]]:
    """The bodies to post, in the order of their choices. Raises InvalidRequest for what the dialect cannot do."""
    if dialect == "text":
        return [body for given in job.bodies for body in _text_bodies(given, job.n)]
    if dialect == "openai":
        return [_openai_body(body, upstream_model) for body in job.bodies]
    return job.bodies


def _text_bodies(body: dict[str, Any], n: int) -> list[dict[str, Any]]:
    for name in _NEEDS_THE_MODEL:
        if name in body:
            raise unsupported_parameter(name)
    if body.get("response_format", {}).get("type") == "json_schema":
        raise unsupported_parameter("response_format")
    if isinstance(body.get("prompt"), list):
        raise unsupported_parameter("prompt")
    encoded = {name: value for name, value in body.items() if name not in _DONE_BY_THE_ADAPTER}
    if "messages" in encoded:
        encoded["messages"] = [_flat(message, i) for i, message in enumerate(encoded["messages"])]
    if "max_tokens" in encoded:
        encoded["max_new_tokens"] = encoded["max_tokens"]  # the name that the classic models read
    if "seed" in encoded:
        return [{**encoded, "seed": encoded["seed"] + i} for i in range(n)]
    return [encoded] * n


def _flat(message: dict[str, Any], i: int) -> dict[str, Any]:
    """These models read messages that have a role and a string."""
    if message["role"] == "tool" or message.get("tool_calls"):
        raise unsupported_parameter(f"messages[{i}]")
    if message.get("prefix"):
        raise unsupported_parameter(f"messages[{i}].prefix")
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, list):
        content = "\n".join(part.get("text") or part.get("refusal") or "" for part in content)
    return {"role": message["role"], "content": content}


def _openai_body(body: dict[str, Any], upstream_model: str) -> dict[str, Any]:
    if "messages" not in body:
        raise unsupported_parameter("prompt")
    encoded = {"model": upstream_model, **body}
    if body.get("stream"):
        encoded["stream_options"] = {"include_usage": True}
    return encoded
