"""From config.yaml and the environment to a service that answers: the weights loaded, the engine started."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from truss_model.engine.engine import Engine
from truss_model.errors import LoadError
from truss_model.loading import load_model, out_of_memory
from truss_model.metrics import export
from truss_model.prompt import load_tokenizer
from truss_model.service import Service
from truss_model.settings import read_settings

# Truss's hot reload walks the __path__ of every module; that of torch.classes is an object that cannot be walked.
torch.classes.__path__ = []


def build_service(config: Mapping[str, Any], token: str | None) -> Service:
    """Load the weights, start the engine, and put the service before it. Raises LoadError."""
    settings = read_settings(config, os.environ)
    loaded = load_model(settings.model, config, token)
    tokenizer = load_tokenizer(loaded.folder)
    try:
        engine = Engine(loaded.model, settings.engine, eos_token_ids=tokenizer.eos_token_ids)
        engine.start()
        export(engine.stats)
    except torch.OutOfMemoryError as error:
        raise LoadError(out_of_memory("Starting the engine")) from error
    except ValueError as error:
        raise LoadError(f"The engine cannot start with these settings: {error}") from error
    return Service(engine, tokenizer, settings.serving, loaded.name)
