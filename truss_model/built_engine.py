"""From config.yaml and the environment to an engine that runs: the weights loaded, their tokenizer read."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from truss_model.engine.delivery import Delivery
from truss_model.engine.engine import Engine
from truss_model.engine.execution.fault_record import fault_record
from truss_model.engine.execution.ladder import StartOptions
from truss_model.errors import LoadError
from truss_model.grammar.compiler import GrammarCompiler
from truss_model.loading import load_model, out_of_memory
from truss_model.settings import read_settings
from truss_model.tokenizer.chat_tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

# What the self-check has the model read: prose, figures, code and several languages, some 330 tokens.
TEXT = """The lighthouse stood on a low rock two miles from the harbour. Every evening at half past six the keeper
climbed the 142 steps, cleaned the lenses, and lit the lamp; every morning he wrote the weather, the ships that had
passed, and whatever else had seemed worth a line into a thick grey book. "Fog until noon," he would write. "Three
schooners, one steamer (the Helena, bound for Lisbon), and a seal."

def mean(values: list[float]) -> float:
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)

Der Leuchtturm stand auf einem niedrigen Felsen. Le phare se dressait sur un rocher bas. El faro estaba sobre una roca.
灯台は低い岩の上に。 In 1873 the light could be seen for 18.5 nautical miles; after the new lamp of 1911, for 24.
1. What is the capital of Portugal? Lisbon. 2. What is 17 * 23? 391. 3. Which gas do plants take in? Carbon dioxide.
{"name": "Helena", "tons": 1250, "ports": ["Cork", "Lisbon", "Genoa"], "steam": true}
The keeper's daughter learned to read from that book, and then to count, and in the winter when she was eleven she wrote
the entries herself, because his hands had become too stiff to hold a pen."""


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine that is started. `folder` holds the tokenizer's files; `name` is what answers call the model."""

    engine: Engine
    grammars: GrammarCompiler
    folder: Path
    name: str


def build_engine(config: Mapping[str, Any], token: str | None, delivery: Delivery) -> BuiltEngine:
    """Load the weights and start the engine. Raises LoadError."""
    settings = read_settings(config, os.environ)
    loaded = load_model(settings.model, config, token)
    tokenizer = load_tokenizer(loaded.folder)
    logger.info("Starting the engine: KV cache and kernels.")
    try:
        options = StartOptions(loaded.reload, tokenizer.encode_text(TEXT), fault_record(loaded.model))
        eos = tokenizer.eos_token_ids
        engine = Engine(loaded.model, settings.engine, eos_token_ids=eos, options=options, delivery=delivery)
        engine.start()
    except torch.OutOfMemoryError as error:
        raise LoadError(out_of_memory("Starting the engine")) from error
    except ValueError as error:
        raise LoadError(f"The engine cannot start with these settings: {error}") from error
    return BuiltEngine(engine, GrammarCompiler(tokenizer), loaded.folder, loaded.name)
