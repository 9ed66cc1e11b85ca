"""The faces of OpenAI's API that make text, by their path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bridge_adapter.chunks import ChatChunks, Renderer
from bridge_adapter.completions import COMPLETIONS, plan_completion
from bridge_adapter.jobs import Identity, Job
from bridge_adapter.openai_types import CHAT, check_chat
from bridge_adapter.plans import Face
from bridge_adapter.responses import plan_response
from bridge_adapter.responses_types import RESPONSES
from bridge_adapter.translate import chat_completion, chat_job
from bridge_adapter.wire import Result


@dataclass(frozen=True, slots=True)
class ChatPlan:
    job: Job

    def answer(self, identity: Identity, result: Result) -> bytes:
        return msgspec.json.encode(chat_completion(self.job, identity, result))

    def renderer(self, identity: Identity) -> Renderer:
        return ChatChunks(self.job, identity)


def plan_chat(body: Mapping[str, Any]) -> ChatPlan:
    return ChatPlan(chat_job(check_chat(body)))


FACES: Mapping[str, Face] = {
    "/chat/completions": Face("chat.completions", "chatcmpl-", CHAT, plan_chat),
    "/completions": Face("completions", "cmpl-", COMPLETIONS, plan_completion),
    "/responses": Face("responses", "resp_", RESPONSES, plan_response),
}
