"""One request after it was checked: the predict bodies that it needs and how its answer is to look. Knows no HTTP."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StreamOptions:
    include_usage: bool = False
    continuous_usage: bool = False
    obfuscation: bool = False


@dataclass(slots=True)
class Job:
    """`bodies[k]` makes the choices k*n to k*n+n-1; n and the stop strings stand in the bodies too."""

    bodies: list[dict[str, Any]]
    n: int = 1
    stream: bool = False
    options: StreamOptions = StreamOptions()
    legacy_functions: bool = False
    service_tier: str | None = None

    @property
    def choices(self) -> int:
        return self.n * len(self.bodies)


@dataclass(frozen=True, slots=True)
class Identity:
    """What every piece of one answer repeats."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))


def new_identity(prefix: str, model: str) -> Identity:
    return Identity(f"{prefix}{secrets.token_hex(16)}", model)
