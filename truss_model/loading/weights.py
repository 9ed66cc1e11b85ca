"""Where the weights are: a folder set by hand, the platform's mount, the hub, the demo model. Loads nothing."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truss_model.errors import LoadError
from truss_model.loading.hub import HubRepository, download
from truss_model.settings import ModelSettings

logger = logging.getLogger(__name__)

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder as transformers reads it, and the name that answers give the model."""

    folder: Path
    name: str
    source: Literal["path", "mounted", "hub", "demo"]


@dataclass(frozen=True, slots=True)
class Sources:
    """The two sources that take work. `fetch(repository, token, local_only)` returns a folder, `demo()` likewise."""

    demo: Callable[[], Path]
    fetch: Callable[[HubRepository, str | None, bool], Path] = download


def find_weights(
    settings: ModelSettings, config: Mapping[str, Any], token: str | None, sources: Sources, *, gpu: bool
) -> Weights:
    """Look in this order: settings' path, settings' id, the mount of config.yaml's weights, their source on the hub.

    The demo model is served if it is asked for, or nothing else is configured, or as the fallback that settings allow.
    Raises LoadError that says what was tried.
    """
    truss_name = str(config.get("model_name") or "model")
    if settings.path is not None:
        if not settings.path.is_dir():
            raise LoadError(f"No folder {settings.path}, which model_metadata.model.path or TRUSS_MODEL_PATH names.")
        return Weights(settings.path, settings.name or settings.path.name, "path")
    if settings.id == DEMO:
        return _demo(settings, sources)
    if settings.id is not None:
        repository = HubRepository.parse(settings.id)
        return Weights(sources.fetch(repository, token, False), settings.name or repository.id, "hub")
    mount, source = _configured(config)
    if mount is not None and (mount / "config.json").exists():
        return Weights(mount, settings.name or truss_name, "mounted")
    if source is None:
        if mount is not None:
            raise LoadError(f"Nothing is mounted at {mount}, and the source in config.yaml's weights is no hf:// one.")
        return _demo(settings, sources)
    if mount is not None:
        logger.info("Nothing is mounted at %s; taking the weights from the hub.", mount)
    if settings.demo_fallback and not gpu:
        try:
            return Weights(sources.fetch(source, token, True), settings.name or truss_name, "hub")
        except LoadError:
            logger.info("There is no GPU, and %s was not downloaded before: serving the demo model.", source.id)
            return _demo(settings, sources)
    return Weights(sources.fetch(source, token, False), settings.name or truss_name, "hub")


def only_demo(settings: ModelSettings, config: Mapping[str, Any]) -> bool:
    """Whether the demo model is what is asked for, not what is served for want of another."""
    return settings.path is None and (
        settings.id == DEMO or (settings.id is None and _configured(config) == (None, None))
    )


def _demo(settings: ModelSettings, sources: Sources) -> Weights:
    folder = sources.demo()
    return Weights(folder, settings.name or folder.name, "demo")


def _configured(config: Mapping[str, Any]) -> tuple[Path | None, HubRepository | None]:
    """The first entry of config.yaml's weights: its mount, and its repository if it is one on the hub."""
    weights = config.get("weights") or []
    if not isinstance(weights, list) or not weights:
        return None, None
    mount, source = weights[0].get("mount_location"), str(weights[0].get("source", ""))
    repository = HubRepository.parse(source.removeprefix("hf://")) if source.startswith("hf://") else None
    return Path(mount) if mount else None, repository
