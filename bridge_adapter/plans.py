"""What every face of the API makes of a checked request: the job for the Truss, and how its answer is shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bridge_adapter.chunks import Renderer
from bridge_adapter.fields import Check
from bridge_adapter.jobs import Identity, Job
from bridge_adapter.wire import Result


class Plan(Protocol):
    """One request's."""

    @property
    def job(self) -> Job: ...

    def answer(self, identity: Identity, result: Result) -> bytes: ...

    def renderer(self, identity: Identity) -> Renderer: ...


@dataclass(frozen=True, slots=True)
class Face:
    """`known`: the fields of its requests. `plan` raises APIError for what is wrong with them."""

    route: str
    id_prefix: str
    known: Mapping[str, Check]
    plan: Callable[[Mapping[str, Any]], Plan]
