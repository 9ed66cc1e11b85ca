"""What the front and the replicas send each other: one call, then the head of its answer and the pieces of its body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROUTES: Mapping[str, str] = {
    "/v1/models/model:predict": "predict",
    "/v1/chat/completions": "chat_completions",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
"""Path -> method of the Model class, as the Truss server routes them."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request. `body` is the parsed JSON, `size` its length in bytes; `headers` in lower case."""

    path: str
    headers: Mapping[str, str]
    body: Any
    size: int


@dataclass(frozen=True, slots=True)
class Head:
    """The first item of an answer; every item after it is bytes of the body."""

    status: int
    headers: Mapping[str, str]
