"""What a model's settings add to a request: defaults, caps, and what becomes of unknown fields. Pure.

Applied to the translated job and not to a request as it came, so that every endpoint obeys.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge_adapter.contract import Job
from bridge_adapter.errors import InvalidRequest
from bridge_adapter.openai_api.chat import CHAT
from bridge_adapter.openai_api.parameter import Parameters
from bridge_adapter.openai_api.parameters import SAMPLING, check_token_limits
from bridge_adapter.openai_api.validators import array

_OTHERS = ("max_completion_tokens", "max_new_tokens", "response_format", "parallel_tool_calls")
DEFAULTABLE = Parameters(*(item for item in CHAT if (item in SAMPLING and item.name != "n") or item.name in _OTHERS))
DROPPED_FIELDS = "x-bridge-dropped-fields"
_SAFE_PATH = re.compile(r"[A-Za-z0-9._:\[\]-]{1,128}")
_NEEDS = {"parallel_tool_calls": "tools"}


def default_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """A model's `defaults` as fields of the predict body. Raises InvalidRequest; all names are of DEFAULTABLE."""
    checked = DEFAULTABLE.check(given)
    check_token_limits(checked, DEFAULTABLE)
    return DEFAULTABLE.predict_fields(checked)


def header_of(dropped: Sequence[str]) -> str:
    """The paths of dropped fields as the value of DROPPED_FIELDS, except those that do not fit a header."""
    return ",".join(name for name in dropped if _SAFE_PATH.fullmatch(name))[:1000]


@dataclass(frozen=True, slots=True)
class Policy:
    """`defaults`: fields of the predict body, used where a request gives none. `caps`: max_tokens and n at most.

    `clamp_to_context`: have the Truss lower a max_tokens above what the prompt leaves of the context.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    drop_unknown: bool = False
    max_stop_strings: int = 4
    clamp_to_context: bool = False

    def apply(self, job: Job) -> None:
        """Complete the job's bodies. Raises InvalidRequest for a value above a cap: it is not silently lowered."""
        first = job.bodies[0]
        if self.caps:
            self._check_cap(job, "n", job.n)
            self._check_cap(job, "max_tokens", first.get("max_tokens"))
        if "stop" in first:
            array(first["stop"], "stop", shortest=0, longest=self.max_stop_strings)
        most = self.caps.get("max_tokens")
        if job.default_max_tokens is not None:
            most = job.default_max_tokens if most is None else min(job.default_max_tokens, most)
        if most is not None or self.defaults or self.clamp_to_context:
            for body in job.bodies:
                self._complete(body, most)

    def _complete(self, body: dict[str, Any], max_tokens: int | None) -> None:
        for name, value in self.defaults.items():
            if name not in _NEEDS or _NEEDS[name] in body:
                body.setdefault(name, value)
        if max_tokens is not None:
            body.setdefault("max_tokens", max_tokens)
        if self.clamp_to_context and "max_tokens" in body:
            body["max_tokens_over_context"] = "clamp"

    def _check_cap(self, job: Job, name: str, value: int | None) -> None:
        cap = self.caps.get(name)
        if value is not None and cap is not None and value > cap:
            given = job.names.get(name, name)
            raise InvalidRequest(
                f"{given} is too large: {value}. This model supports at most {cap}, whereas you provided {value}.",
                param=given,
                code="integer_above_max_value",
            )


NO_POLICY = Policy()
