"""The adapter's own description of itself is true: whatever it allows or not, answers are those it describes."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.server import FUZZ_TIMES, Service

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def description(adapter: Service, tiny: Service) -> Any:
    return schemathesis.openapi.from_url(f"{adapter.url}/openapi.json")


@pytest.mark.timeout(900 * FUZZ_TIMES)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_described(description: Any, mode: GenerationMode) -> None:
    for result in description.get_all_operations():
        operation = result.ok()
        # An id in the path leads to the same code, and out of this machine.
        if "{model_id}" in operation.path or (mode is GenerationMode.NEGATIVE and not list(operation.body)):
            continue

        @settings(max_examples=40 * FUZZ_TIMES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            aim(case.body)
            case.call_and_validate(checks=CHECKS, timeout=60)

        check()


def aim(body: Any) -> None:
    """Ask for a short answer of a model that is there: a made-up name would be all that is ever refused."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return
    body["model"] = "tiny"
    body.pop("n", None)
    body.pop("stream", None)  # what a stream holds is told in words only
    limit = "max_output_tokens" if "input" in body else "max_tokens"
    given_limits = [name for name in ("max_tokens", "max_completion_tokens", "max_output_tokens") if name in body]
    for name in given_limits or [limit]:
        if isinstance(body.get(name, 2), int):
            body[name] = min(body.get(name, 2), 4)
