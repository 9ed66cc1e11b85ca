"""The operations of OpenAI's API that generate text, by their path: request -> job, result or events -> answer.

One request: `plan` checks and translates it; each of `plan.job.bodies` is a predict body; then either `plan.answer`
renders the whole result, or `plan.renderer` renders the events, batch by batch.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bridge_adapter.contract import Job, Result
from bridge_adapter.errors import APIError, InvalidRequest
from bridge_adapter.openai_api import validators as fields
from bridge_adapter.openai_api.answers import Identity
from bridge_adapter.openai_api.chat import CHAT, plan_chat
from bridge_adapter.openai_api.completions import COMPLETIONS, plan_completion
from bridge_adapter.openai_api.parameter import Parameters
from bridge_adapter.openai_api.policy import NO_POLICY, Policy
from bridge_adapter.openai_api.responses import plan_response
from bridge_adapter.openai_api.responses_request import RESPONSES
from bridge_adapter.openai_api.sse import Renderer
from bridge_adapter.openai_api.validators import dropping_unknown


class Plan(Protocol):
    """One checked request: what to ask the model for, and how to write what it answers."""

    @property
    def job(self) -> Job: ...

    def answer(self, identity: Identity, result: Result) -> bytes:
        """The JSON of the whole answer."""

    def renderer(self, identity: Identity) -> Renderer:
        """A new renderer of the answer as server-sent events."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`route`: its name in logs and metrics. `translate` knows no model; `plan` is what callers use."""

    route: str
    summary: str
    id_prefix: str
    parameters: Parameters
    translate: Callable[[Mapping[str, Any]], Plan]
    example: Mapping[str, Any]
    event_example: str

    @property
    def known(self) -> frozenset[str]:
        """The fields of its requests, refused ones among them."""
        return frozenset(self.parameters.checks)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its requests. The example holds the required fields first."""
        return {
            "type": "object",
            "required": [next(iter(self.example))],
            "properties": self.parameters.schemas,
            "additionalProperties": False,
            "example": {"model": "mistral-7b", **self.example},
        }

    def plan(self, body: Mapping[str, Any], policy: Policy = NO_POLICY) -> Plan:
        """The request under the settings of its model. Raises InvalidRequest, whose `param` names the wrong field."""
        if policy.drop_unknown:
            with dropping_unknown() as dropped:
                plan = self.translate(body)
            plan.job.dropped = without_indices(dropped)
        else:
            plan = self.translate(body)
        policy.apply(plan.job)
        return plan


def name_as_requested(error: APIError, job: Job) -> None:
    """What answers the predict bodies names their fields; the request may have other names for them."""
    name = job.names.get(re.split(r"[.\[]", error.param or "", maxsplit=1)[0])
    if name is not None:
        error.message = error.message.replace(f"'{error.param}'", f"'{name}'")
        error.param = name


def without_indices(paths: list[str]) -> tuple[str, ...]:
    """`messages[3].id` and `messages[5].id` are both `messages[].id`."""
    return tuple(dict.fromkeys(re.sub(r"\[\d+\]", "[]", path) for path in paths))


OPERATIONS: Mapping[str, Operation] = {
    "/chat/completions": Operation(
        route="chat.completions",
        summary="Create a chat completion",
        id_prefix="chatcmpl-",
        parameters=CHAT,
        translate=plan_chat,
        example={"messages": [{"role": "user", "content": "Hello!"}]},
        event_example='data: {"object": "chat.completion.chunk", ...}\n\ndata: [DONE]\n\n',
    ),
    "/completions": Operation(
        route="completions",
        summary="Create a completion",
        id_prefix="cmpl-",
        parameters=COMPLETIONS,
        translate=plan_completion,
        example={"prompt": "Once upon a time", "max_tokens": 32},
        event_example='data: {"object": "text_completion", ...}\n\ndata: [DONE]\n\n',
    ),
    "/responses": Operation(
        route="responses",
        summary="Create a response",
        id_prefix="resp_",
        parameters=RESPONSES,
        translate=plan_response,
        example={"input": "Hello!"},
        event_example='event: response.output_text.delta\ndata: {"delta": "Hi", ...}\n\n',
    ),
}


def json_object(body: object) -> dict[str, Any]:
    """A request's parsed body. Raises InvalidRequest unless it is an object."""
    if isinstance(body, dict):
        return body
    raise InvalidRequest(
        f"Invalid type for the request body: expected an object, but got {fields.type_name(body)} instead.",
        code="invalid_type",
    )


def model_of(body: Mapping[str, Any]) -> str:
    """The name in `model`, which OpenAI requires. Raises InvalidRequest."""
    name = body.get("model")
    if name is None:
        raise InvalidRequest("you must provide a model parameter", param="model", code="missing_required_parameter")
    return fields.string(name, "model")
