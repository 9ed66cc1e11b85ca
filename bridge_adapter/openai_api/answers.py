"""The parts that answers of all operations share: identity, usage, tool calls, log probabilities. Pure."""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge_adapter.contract import Call, Job, PromptToken, TokenLogprob, Usage

_HARMLESS_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def usage(counts: Usage | None) -> dict[str, Any] | None:
    """None: the upstream's dialect counts no tokens."""
    if counts is None:
        return None
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }


def tool_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": called(call)}


def called(call: Call) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}


def logprobs(tokens: list[TokenLogprob] | None) -> dict[str, Any] | None:
    return None if tokens is None else {"content": tokens, "refusal": None}


def finish_reason(reason: str, job: Job) -> str:
    """OpenAI says `stop` after a call that the request forced by name, streamed or not; see README, Parameters."""
    if reason != "tool_calls":
        return reason
    if job.forced_call:
        return "stop"
    return "function_call" if job.legacy_functions else reason


def prompt_logprobs(tokens: Sequence[PromptToken] | None) -> list[dict[str, Any] | None]:
    """In vLLM's form: at each position the prompt's token and the likeliest ones, by their ids; null at the first."""
    return [None if token.logprob is None else _alternatives(token) for token in tokens or ()]


def _alternatives(token: PromptToken) -> dict[str, Any]:
    shown = {str(token.id): {"logprob": token.logprob, "rank": token.rank, "decoded_token": token.token}}
    for rank, top in enumerate(token.top_logprobs, 1):
        shown.setdefault(str(top.id), {"logprob": top.logprob, "rank": rank, "decoded_token": top.token})
    return shown


@dataclass(frozen=True, slots=True)
class Identity:
    """What every piece of one answer repeats."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))


def new_identity(prefix: str, model: str) -> Identity:
    return Identity(f"{prefix}{secrets.token_hex(16)}", model)


def request_id(given: str | None) -> str:
    """The value of `x-request-id`: the caller's own id if it is harmless in headers and logs, else a new one."""
    return given if given and _HARMLESS_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
