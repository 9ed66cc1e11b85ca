"""What other people's programs send: bodies/*.json, one file a client, written by hand from its public source.

A request has `what` it is, its `path` and `body`, and, where default settings refuse it, `refused`:
what the message names, and `allowed_by`: the setting of the model with which it is answered.
`tokens_as_sent` keeps its token limit; the others are cut, for no test needs long answers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES = sorted((Path(__file__).parent / "bodies").glob("*.json"))
TOKENS = 8
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
RESPONSES_TOKENS = 16  # OpenAI's own minimum


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of a client."""

    name: str
    path: str
    headers: dict[str, str]
    given: dict[str, Any]
    refused: str | None
    allowed_by: str | None
    tokens_as_sent: bool

    def body(self, model: str) -> dict[str, Any]:
        body = self.given | {"model": model}
        if self.tokens_as_sent:
            return body
        most = RESPONSES_TOKENS if self.path == "/v1/responses" else TOKENS
        limits = [name for name in (*LIMITS.values(), "max_completion_tokens", "max_new_tokens") if name in body]
        return body | dict.fromkeys(limits or [LIMITS[self.path]], most)


def all_sent() -> Iterator[Sent]:
    for file in FILES:
        client = json.loads(file.read_text())
        for request in client["requests"]:
            yield Sent(
                f"{file.stem}: {request['what']}",
                request["path"],
                {"content-type": "application/json", **client["headers"]},
                request["body"],
                request.get("refused"),
                request.get("allowed_by"),
                request.get("tokens_as_sent", False),
            )
