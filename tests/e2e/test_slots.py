"""A stream holds none of the slots that Truss counts by `predict_concurrency`: the bound is the engine's."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from scripts.assemble import assemble
from scripts.process import free_port
from scripts.serve import REPOSITORY
from scripts.stack import start_truss, wait_truss
from tests.e2e.engine_counts import until
from tests.e2e.server import BASE_ENVIRONMENT, LOAD_SECONDS, Service

STREAMS = 3
MESSAGES = [{"role": "user", "content": "Go on."}]
LONG: dict[str, Any] = {"max_tokens": 1900, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def one_slot(demo_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Truss that lets one caller at once into `predict`. Its model is slow enough for streams to meet."""
    image, port = assemble(REPOSITORY, tmp_path_factory.mktemp("image")), free_port()
    image.config["runtime"]["predict_concurrency"] = 1
    (image.app / "config.yaml").write_text(yaml.safe_dump(image.config))
    environment = {**BASE_ENVIRONMENT, "TRUSS_MODEL_PATH": str(demo_weights)}
    with start_truss(image, port, tmp_path_factory.mktemp("one-slot"), environment=environment) as process:
        wait_truss(process, port, LOAD_SECONDS)
        yield Service(process, port)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/model:predict", {"messages": MESSAGES}),
        ("/v1/chat/completions", {"model": "demo", "messages": MESSAGES}),
        ("/v1/completions", {"model": "demo", "prompt": "Go on."}),
        ("/v1/responses", {"model": "demo", "input": "Go on.", "max_output_tokens": 1900}),
    ],
)
async def test_streams_run_beside_each_other(one_slot: Service, path: str, body: dict[str, Any]) -> None:
    sent = LONG | body
    if "input" in body:
        del sent["max_tokens"]
    async with httpx.AsyncClient(base_url=one_slot.url, timeout=60) as client, AsyncExitStack() as open_streams:
        read = []  # an iterator that is let go closes its stream
        for _ in range(STREAMS):
            response = await open_streams.enter_async_context(client.stream("POST", path, json=sent))
            assert response.status_code == 200
            read.append(response.aiter_raw())
            await anext(read[-1])
        await until(one_slot, lambda counts: counts["rows_running"] == STREAMS)
    await until(one_slot, lambda counts: counts["rows_running"] == 0)
