"""/responses: the whole answer and its items. Pure; the streamed form is its own module."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bridge_adapter.contract import Choice, Job, Result, Usage
from bridge_adapter.openai_api.answers import Identity
from bridge_adapter.openai_api.chat import chat_job
from bridge_adapter.openai_api.responses_request import RESPONSES, chat_fields, check_response
from bridge_adapter.openai_api.responses_stream import ResponseEvents, function_call_item, message_item, shown_logprobs
from bridge_adapter.openai_api.sse import Renderer


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """`asked`: the request as it came, whose fields an answer repeats."""

    job: Job
    asked: Mapping[str, Any]

    def answer(self, identity: Identity, result: Result) -> bytes:
        choice = result.choices[0]
        response = self.response(identity, items(choice), choice.finish_reason, result.usage)
        return msgspec.json.encode(response)

    def renderer(self, identity: Identity) -> Renderer:
        return ResponseEvents(self, identity, obfuscated=self.job.options.obfuscation)

    def response(
        self, identity: Identity, output: list[dict[str, Any]], reason: str | None, counts: Usage | None
    ) -> dict[str, Any]:
        """`reason` None: still in progress, or failed."""
        asked = self.asked
        status = "in_progress" if reason is None else "incomplete" if reason == "length" else "completed"
        return {
            "id": identity.id,
            "object": "response",
            "created_at": identity.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "metadata": asked.get("metadata") or {},
            "model": identity.model,
            "output": output,
            "parallel_tool_calls": _given(asked, "parallel_tool_calls", True),
            "previous_response_id": None,
            "prompt_cache_key": asked.get("prompt_cache_key"),
            "reasoning": {"effort": (asked.get("reasoning") or {}).get("effort"), "summary": None},
            "safety_identifier": asked.get("safety_identifier"),
            "service_tier": "default",
            "store": False,
            "temperature": _given(asked, "temperature", 1.0),
            "text": {"format": {"type": "text"}, **(asked.get("text") or {})},
            "tool_choice": _given(asked, "tool_choice", "auto"),
            "tools": asked.get("tools") or [],
            "top_logprobs": _given(asked, "top_logprobs", 0),
            "top_p": _given(asked, "top_p", 1.0),
            "truncation": "disabled",
            "usage": usage(counts) if counts is not None else None,
            "user": asked.get("user"),
        }


def plan_response(body: Mapping[str, Any]) -> ResponsePlan:
    checked = check_response(body)
    job = chat_job(chat_fields(checked))
    job.names = RESPONSES.predict_names(checked) | {"messages": "input"}
    return ResponsePlan(job, body)


def _given(asked: Mapping[str, Any], name: str, default: Any) -> Any:
    value = asked.get(name)
    return default if value is None else value


def usage(counts: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.total_tokens,
    }


def items(choice: Choice) -> list[dict[str, Any]]:
    status = "incomplete" if choice.finish_reason == "length" else "completed"
    calls = [
        function_call_item(f"fc_{secrets.token_hex(12)}", call.id, call.name, call.arguments, status)
        for call in choice.tool_calls or ()
    ]
    if calls and not choice.text:
        return calls
    text = message_item(f"msg_{secrets.token_hex(12)}", choice.text or "", shown_logprobs(choice.logprobs), status)
    return [text, *calls]
