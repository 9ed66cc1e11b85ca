from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truss_model.errors import LoadError
from truss_model.loading.hub import HubRepository
from truss_model.loading.weights import Sources, Weights, find_weights
from truss_model.settings import ModelSettings

SHA = "c170c708c41dac9275d15a8fff4eca08d52bab71"
MISTRAL = HubRepository("mistralai/Mistral-7B-Instruct-v0.3", SHA)


class Hub:
    """Remembers what was asked for; has `downloaded` in its cache and the rest on the network, if that is there."""

    def __init__(self, folder: Path, *, network: bool = True, downloaded: bool = False) -> None:
        self.folder = folder
        self.network = network
        self.downloaded = downloaded
        self.asked: list[tuple[HubRepository, str | None, bool]] = []

    def fetch(self, repository: HubRepository, token: str | None, local_only: bool) -> Path:
        self.asked.append((repository, token, local_only))
        if not self.downloaded and (local_only or not self.network):
            raise LoadError("the hub cannot be reached")
        return self.folder


@pytest.fixture
def find(tmp_path: Path, tiny_mistral: Path) -> Callable[..., Weights]:
    def call(settings: ModelSettings, config: dict[str, Any], hub: Hub | None = None, gpu: bool = True) -> Weights:
        hub = hub or Hub(tmp_path / "hub")
        return find_weights(settings, config, "token", Sources(lambda: tmp_path / "Demo", hub.fetch), gpu=gpu)

    return call


def config(mount: Path | str, source: str = f"hf://{MISTRAL.id}@{SHA}") -> dict[str, Any]:
    return {"model_name": "mistral-7b", "weights": [{"source": source, "mount_location": str(mount)}]}


def test_mounted_weights(find: Callable[..., Weights], tiny_mistral: Path) -> None:
    assert find(ModelSettings(), config(tiny_mistral)) == Weights(tiny_mistral, "mistral-7b", "mounted")


def test_a_folder_wins_over_the_mount(find: Callable[..., Weights], tiny_mistral: Path, tmp_path: Path) -> None:
    found = find(ModelSettings(path=tmp_path, id="a/b"), config(tiny_mistral))
    assert found == Weights(tmp_path, tmp_path.name, "path")


def test_a_hub_id_wins_over_the_mount(find: Callable[..., Weights], tiny_mistral: Path, tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    assert find(ModelSettings(id="a/b@v1"), config(tiny_mistral), hub) == Weights(tmp_path, "a/b", "hub")
    assert hub.asked == [(HubRepository("a/b", "v1"), "token", False)]


def test_the_mounts_source_is_downloaded_where_nothing_is_mounted(find: Callable[..., Weights], tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    assert find(ModelSettings(), config("/nowhere"), hub) == Weights(tmp_path, "mistral-7b", "hub")
    assert hub.asked == [(MISTRAL, "token", False)]


def test_the_name_can_be_set(find: Callable[..., Weights], tiny_mistral: Path, tmp_path: Path) -> None:
    for settings in (
        ModelSettings(name="x"),
        ModelSettings(name="x", path=tmp_path),
        ModelSettings(name="x", id="a/b"),
    ):
        assert find(settings, config(tiny_mistral)).name == "x"


def test_the_demo_model_if_asked_for_or_nothing_is_configured(
    find: Callable[..., Weights], tiny_mistral: Path, tmp_path: Path
) -> None:
    demo = Weights(tmp_path / "Demo", "Demo", "demo")
    assert find(ModelSettings(id="demo"), config(tiny_mistral)) == demo
    assert find(ModelSettings(), {}) == demo


@pytest.mark.parametrize(
    ("fallback", "gpu", "downloaded", "source"),
    [(True, False, False, "demo"), (True, False, True, "hub"), (True, True, False, None), (False, False, False, None)],
)
def test_the_demo_model_as_a_fallback_without_a_gpu(
    find: Callable[..., Weights], tmp_path: Path, fallback: bool, gpu: bool, downloaded: bool, source: str | None
) -> None:
    settings, hub = ModelSettings(demo_fallback=fallback), Hub(tmp_path, network=False, downloaded=downloaded)
    if source is None:
        with pytest.raises(LoadError, match="cannot be reached"):
            find(settings, config("/nowhere"), hub, gpu)
    else:
        assert find(settings, config("/nowhere"), hub, gpu).source == source


@pytest.mark.parametrize(
    ("settings", "weights", "told"),
    [
        (ModelSettings(path=Path("/nowhere")), {}, "No folder /nowhere"),
        (ModelSettings(), config("/nowhere", "s3://bucket/weights"), "Nothing is mounted at /nowhere"),
    ],
)
def test_what_is_not_there_is_named(
    find: Callable[..., Weights], settings: ModelSettings, weights: dict[str, Any], told: str
) -> None:
    with pytest.raises(LoadError, match=told):
        find(settings, weights)
