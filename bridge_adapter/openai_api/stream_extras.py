"""What stream options add to every chunk: running usage, and noise that hides how long a token is. Pure."""

import secrets
from typing import Any

from bridge_adapter.jobs import StreamOptions
from bridge_adapter.translate import usage
from bridge_adapter.wire import Delta, Event, Start, ToolCall, Usage

_TO_MULTIPLE_OF = 32


class Tail:
    """`plain`: nothing but what is the same for every chunk."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self._counts = Usage()
        self.plain = not (options.continuous_usage or options.obfuscation)

    def count(self, event: Event) -> None:
        """A delta that does not say for how many tokens it stands counts as one; the last usage is exact."""
        if isinstance(event, Start):
            self._counts = Usage(event.prompt_tokens, 0, event.prompt_tokens, event.cached_tokens)
        elif isinstance(event, Delta | ToolCall):
            shown = len(event.logprobs or ()) if isinstance(event, Delta) else 0
            tokens = event.tokens or shown or 1
            self._counts.completion_tokens += tokens
            self._counts.total_tokens += tokens

    def fields(self, length: int) -> dict[str, Any]:
        """`length`: of what the chunk holds already."""
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
