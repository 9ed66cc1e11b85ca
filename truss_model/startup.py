"""From config.yaml and the environment to a service that answers: the engine's process started, its tokenizer read."""

import os
from collections.abc import Mapping
from typing import Any

from truss_model.engine.remote import RemoteEngine
from truss_model.engine.worker_process import WORKER
from truss_model.metrics import export
from truss_model.service import Service
from truss_model.settings import read_settings
from truss_model.tokenizer.chat_tokenizer import load_tokenizer


def build_service(config: Mapping[str, Any], token: str | None, module: str = WORKER) -> Service:
    """Start the engine, and put the service before it. module: what its process runs. Raises LoadError."""
    settings = read_settings(config, os.environ)
    engine = RemoteEngine(settings.engine, config, token, module=module)
    worker = engine.start()
    export(engine.stats, lambda: engine.attempts, engine.distributions)
    return Service(engine, load_tokenizer(worker.folder), settings.serving, worker.name)
