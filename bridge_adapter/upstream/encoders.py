"""A job as the dialect of an upstream wants it: one call a body, or a call a choice for Trusses that make one only."""

from typing import Any

from bridge_adapter.errors import unsupported_parameter
from bridge_adapter.jobs import Job
from bridge_adapter.settings import Dialect

_NOT_FROM_OUTSIDE = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "min_tokens",
    "ignore_eos",
)
_ADAPTERS_OWN = ("n", "stop", "response_format")


def shape(job: Job, dialect: Dialect, upstream_model: str) -> list[dict[str, Any]]:
    """The bodies to post, in the order of their choices; raises InvalidRequest for what the dialect cannot do."""
    if dialect == "text":
        return [body for whole in job.bodies for body in _text_bodies(whole, job.n)]
    if dialect == "openai":
        return [_openai_body(body, upstream_model) for body in job.bodies]
    return job.bodies


def _text_bodies(body: dict[str, Any], n: int) -> list[dict[str, Any]]:
    for name in _NOT_FROM_OUTSIDE:
        if name in body:
            raise unsupported_parameter(name)
    if body.get("response_format", {}).get("type") == "json_schema":
        raise unsupported_parameter("response_format")
    if isinstance(body.get("prompt"), list):
        raise unsupported_parameter("prompt")
    shaped = {name: value for name, value in body.items() if name not in _ADAPTERS_OWN}
    if "messages" in shaped:
        shaped["messages"] = [_flat(message, i) for i, message in enumerate(shaped["messages"])]
    if "max_tokens" in shaped:
        shaped["max_new_tokens"] = shaped["max_tokens"]  # the name that the classic models read
    if "seed" in shaped:
        return [{**shaped, "seed": shaped["seed"] + i} for i in range(n)]
    return [shaped] * n


def _flat(message: dict[str, Any], i: int) -> dict[str, Any]:
    """These models read messages of a role and a string."""
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
    shaped = {"model": upstream_model, **body}
    if body.get("stream"):
        shaped["stream_options"] = {"include_usage": True}
    return shaped
