"""What stream options add to every chunk: running usage, and padding that hides the length of a token. Pure."""

import secrets
from typing import Any

from bridge_adapter.contract import Delta, Event, Start, StreamOptions, ToolCall, Usage
from bridge_adapter.openai_api.answers import usage

_TO_MULTIPLE_OF = 32


class StreamExtras:
    """`plain`: every chunk gets the same."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self._counts: Usage | None = Usage()
        self.plain = not (options.continuous_usage or options.obfuscation)

    def count(self, event: Event) -> None:
        """A delta without a token count counts as one token; the last usage is exact."""
        if isinstance(event, Start):
            prompt = event.prompt_tokens
            self._counts = None if prompt is None else Usage(prompt, 0, prompt, event.cached_tokens)
        elif isinstance(event, Delta | ToolCall) and self._counts is not None:
            shown = len(event.logprobs or ()) if isinstance(event, Delta) else 0
            tokens = event.tokens or shown or 1
            self._counts.completion_tokens += tokens
            self._counts.total_tokens += tokens

    def fields(self, length: int) -> dict[str, Any]:
        """`length`: of the chunk without these fields."""
        added: dict[str, Any] = {}
        if self._options.continuous_usage:
            added["usage"] = usage(self._counts)
        elif self._options.include_usage:
            added["usage"] = None
        if self._options.obfuscation:
            added["obfuscation"] = padding(length)
        return added


def padding(length: int) -> str:
    return secrets.token_urlsafe(_TO_MULTIPLE_OF)[: -length % _TO_MULTIPLE_OF]
