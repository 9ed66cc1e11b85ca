"""The stack of the end-to-end and client tests: real Truss servers out of config.yaml, the adapter, OpenAI's client.

`tiny` is a random Mistral, fast and senseless; `smollm2` is the demo model, whose words can be judged. Both run in
float32, so that greedy answers can be compared with transformers' own. A plugin, so that a process has one of each;
what takes long to import is imported where it is used, for most tests need none of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.process import free_port
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss
from tests.e2e.front import Front
from tests.e2e.server import BASE_ENVIRONMENT, LOAD_SECONDS, Service

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from scripts.assemble import Image


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The demo model's folder, converted if this machine has not yet done so."""
    from truss_model.loading.demo import demo_folder

    return demo_folder(None)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    from scripts.assemble import assemble
    from scripts.serve import REPOSITORY

    return assemble(REPOSITORY, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("tiny", "smollm2", "adapter")}


@pytest.fixture(scope="session")
def tiny(
    image: Image, ports: dict[str, int], tiny_mistral: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    environment = {**BASE_ENVIRONMENT, "TRUSS_MODEL_PATH": str(tiny_mistral), "TRUSS_MODEL_NAME": "tiny"}
    with start_truss(image, ports["tiny"], tmp_path_factory.mktemp("tiny"), environment=environment) as process:
        wait_truss(process, ports["tiny"], LOAD_SECONDS)
        yield Service(process, ports["tiny"])


@pytest.fixture(scope="session")
def smollm2(
    image: Image, ports: dict[str, int], demo_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    environment = {**BASE_ENVIRONMENT, "TRUSS_MODEL_PATH": str(demo_weights)}
    with start_truss(image, ports["smollm2"], tmp_path_factory.mktemp("smollm2"), environment=environment) as process:
        wait_truss(process, ports["smollm2"], LOAD_SECONDS)
        yield Service(process, ports["smollm2"])


@pytest.fixture(scope="session")
def adapter(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One adapter for both; it starts without them."""
    models = {
        "tiny": {"url": truss_url(ports["tiny"])},
        "smollm2": {"url": truss_url(ports["smollm2"]), "aliases": ["mistral-7b", "abcd1234"]},
    }
    # An id that no model has must not lead out of this machine.
    nowhere = {"url": f"http://127.0.0.1:{free_port()}/{{model_id}}"}
    with start_adapter(
        {"models": models, "path_form": nowhere}, ports["adapter"], tmp_path_factory.mktemp("adapter")
    ) as process:
        wait_adapter(process, ports["adapter"])
        yield Service(process, ports["adapter"])


@pytest.fixture(scope="session", params=["adapter", "truss"])
def front(request: pytest.FixtureRequest, adapter: Service, tiny: Service, smollm2: Service) -> Front:
    """The tests that ask for this one run once through the adapter and once against the Truss servers themselves."""
    if request.param == "adapter":
        return Front("adapter", adapter.url, adapter.url)
    return Front("truss", tiny.url, smollm2.url)


@pytest.fixture(scope="session")
def client(front: Front) -> Iterator[OpenAI]:
    with front.client() as client:
        yield client


@pytest.fixture
async def async_client(front: Front) -> AsyncIterator[AsyncOpenAI]:
    async with front.async_client() as client:
        yield client
