from pathlib import Path
from typing import Any

import pytest

from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError
from truss_model.settings import ModelSettings, ServingSettings, Settings, read_settings


def test_an_empty_config_gives_the_defaults() -> None:
    assert read_settings({}, {}) == Settings()
    assert read_settings({"model_metadata": None}, {"PATH": "/bin", "TRUSS_MODEL_CPU_KERNELS": "0"}) == Settings()


def test_sections_of_the_config_are_read_and_the_rest_is_the_platforms() -> None:
    metadata = {
        "tags": ["openai-compatible"],
        "example_model_input": {"messages": []},
        "model": {"id": "owner/name@rev", "dtype": "float32", "quantization": "int8"},
        "serving": {"default_max_tokens": 256, "keepalive_seconds": 5},
        "engine": {"max_rows": 4, "max_queue_seconds": 1, "prefix_caching": False, "max_model_len": None},
    }
    assert read_settings({"model_metadata": metadata}, {}) == Settings(
        model=ModelSettings(id="owner/name@rev", dtype="float32", quantization="int8"),
        serving=ServingSettings(default_max_tokens=256, keepalive_seconds=5.0),
        engine=EngineSettings(max_rows=4, max_queue_seconds=1.0, prefix_caching=False),
    )


def test_the_environment_wins_over_the_config() -> None:
    config = {"model_metadata": {"model": {"id": "a/b"}, "engine": {"max_rows": 4}}}
    environment = {
        "TRUSS_MODEL_PATH": "/weights",
        "TRUSS_MODEL_NAME": "7",
        "TRUSS_MODEL_DEMO_FALLBACK": "true",
        "TRUSS_MODEL_SERVING_DRAIN_SECONDS": "2",
        "TRUSS_MODEL_ENGINE_MAX_ROWS": "8",
        "TRUSS_MODEL_ENGINE_MAX_QUEUE": "",
    }
    assert read_settings(config, environment) == Settings(
        model=ModelSettings(id="a/b", path=Path("/weights"), name="7", demo_fallback=True),
        serving=ServingSettings(drain_seconds=2.0),
        engine=EngineSettings(max_rows=8),
    )


@pytest.mark.parametrize(
    ("metadata", "environment", "named"),
    [
        ({"engine": {"max_row": 4}}, {}, "model_metadata.engine.max_row"),
        ({"engin": {}}, {}, "model_metadata.engin"),
        ({"model": {"dtype": "int3"}}, {}, "model_metadata.model.dtype"),
        ({"model": {"demo_fallback": 1}}, {}, "model_metadata.model.demo_fallback"),
        ({"model": "mistral"}, {}, "model_metadata.model"),
        ({"serving": {"default_max_tokens": True}}, {}, "model_metadata.serving.default_max_tokens"),
        ({"serving": {"default_max_tokens": 0}}, {}, "model_metadata.serving.default_max_tokens"),
        ({"serving": {"default_max_tokens": 9, "maximum_max_tokens": 8}}, {}, "default_max_tokens"),
        ({"serving": {"max_stop_strings": 65}}, {}, "model_metadata.serving.max_stop_strings"),
        ({"serving": {"max_tokens_over_context": "drop"}}, {}, "model_metadata.serving.max_tokens_over_context"),
        ({"serving": {"keepalive_seconds": 16}}, {}, "model_metadata.serving.keepalive_seconds"),
        ({"engine": {"kv_cache_fraction": 1.5}}, {}, "model_metadata.engine.kv_cache_fraction"),
        ({"engine": {"max_queue": -1}}, {}, "model_metadata.engine.max_queue"),
        ({}, {"TRUSS_MODEL_ENGINE_ROWS": "4"}, "TRUSS_MODEL_ENGINE_ROWS"),
        ({}, {"TRUSS_MODEL_DTYPE": "[half"}, "TRUSS_MODEL_DTYPE"),
        ({}, {"TRUSS_MODEL_ENGINE_MAX_ROWS": "many"}, "TRUSS_MODEL_ENGINE_MAX_ROWS"),
    ],
)
def test_what_is_wrong_is_named(metadata: dict[str, Any], environment: dict[str, str], named: str) -> None:
    with pytest.raises(LoadError) as error:
        read_settings({"model_metadata": metadata}, environment)
    assert named in error.value.message
