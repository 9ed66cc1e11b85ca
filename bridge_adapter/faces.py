"""The faces of OpenAI's API that make text: how each checks a request, and how it shows an answer."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from bridge_adapter.chunks import ChatChunks, Renderer
from bridge_adapter.fields import Check
from bridge_adapter.jobs import Identity, Job
from bridge_adapter.openai_types import CHAT, check_chat
from bridge_adapter.translate import chat_completion, chat_job
from bridge_adapter.wire import Result


class Face(Protocol):
    """`known`: the fields of its requests. `job` raises APIError; a Job goes with the face that made it."""

    route: str
    id_prefix: str
    known: Mapping[str, Check]

    def job(self, body: Mapping[str, Any]) -> Job: ...

    def answer(self, job: Job, identity: Identity, result: Result) -> bytes: ...

    def renderer(self, job: Job, identity: Identity) -> Renderer: ...


class Chat:
    """/chat/completions"""

    route = "chat.completions"
    id_prefix = "chatcmpl-"
    known: Mapping[str, Check] = CHAT

    def job(self, body: Mapping[str, Any]) -> Job:
        return chat_job(check_chat(body))

    def answer(self, job: Job, identity: Identity, result: Result) -> bytes:
        return msgspec.json.encode(chat_completion(job, identity, result))

    def renderer(self, job: Job, identity: Identity) -> Renderer:
        return ChatChunks(job, identity)


FACES: Mapping[str, Face] = {"/chat/completions": Chat()}
