"""A folder of safetensors, looked at before it is loaded: which tensors, of which types, all there and whole.

Reads headers only, so that a missing or cut shard is named in a second and not after minutes of loading.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truss_model.errors import LoadError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_HEADER = 100_000_000  # bytes, the limit of the format
FLOATS = {"F64", "F32", "F16", "BF16"}
REPAIR = "Copy or download it again."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """linear_parameters: those of the matrices that quantisation makes smaller; the others keep the model's dtype."""

    config: Mapping[str, Any]
    parameters: int
    linear_parameters: int
    stored_bytes: int
    dtypes: frozenset[str]

    @property
    def quantized(self) -> bool:
        """Whether the weights are stored quantised already."""
        return "quantization_config" in self.config


def read_checkpoint(folder: Path) -> Checkpoint:
    """Raises LoadError naming the file that is missing, cut, or of a type that cannot be used."""
    config = _read_json(folder / "config.json")
    parameters = linear = stored = 0
    dtypes: set[str] = set()
    for shard, names in _shards(folder):
        header = _read_header(shard)
        lacking = names - header.keys()
        if lacking:
            raise LoadError(f"{shard} lacks {min(lacking)}, which {INDEX} says it holds. {REPAIR}")
        for name, tensor in header.items():
            count = math.prod(tensor["shape"])
            parameters += count
            stored += tensor["data_offsets"][1] - tensor["data_offsets"][0]
            dtypes.add(tensor["dtype"])
            if len(tensor["shape"]) == 2 and "embed" not in name and "lm_head" not in name:
                linear += count
    checkpoint = Checkpoint(config, parameters, linear, stored, frozenset(dtypes))
    if not checkpoint.quantized and not dtypes <= FLOATS:
        odd = ", ".join(sorted(dtypes - FLOATS))
        raise LoadError(
            f"The weights in {folder} hold tensors of type {odd}, but config.json has no quantization_config that says "
            "how to read them. Use the original weights, or the config.json that belongs to these."
        )
    return checkpoint


def _shards(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    if not (folder / INDEX).exists():
        if not (folder / SINGLE).exists():
            raise LoadError(f"No weights in {folder}: neither {SINGLE} nor {INDEX} is there. {REPAIR}")
        yield folder / SINGLE, set()
        return
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LoadError(f"{folder / INDEX} has no weight_map. {REPAIR}")
    files = sorted(set(weight_map.values()))
    absent = [file for file in files if not (folder / file).exists()]
    if absent:
        raise LoadError(f"{len(absent)} of {len(files)} shards are missing in {folder}: {', '.join(absent)}. {REPAIR}")
    for file in files:
        yield folder / file, {name for name, held in weight_map.items() if held == file}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LoadError(f"No {path.name} in {path.parent}: this is no folder of a transformers model.") from None
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise LoadError(f"{path} is not valid JSON: {error}. {REPAIR}") from error
    if not isinstance(value, dict):
        raise LoadError(f"{path} holds no JSON object. {REPAIR}")
    return value


def _read_header(shard: Path) -> dict[str, Any]:
    """The format: eight bytes with the header's length, the header as JSON, the data."""
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            length_bytes = file.read(8)
            length = struct.unpack("<Q", length_bytes)[0] if len(length_bytes) == 8 else LARGEST_HEADER
            if length >= min(LARGEST_HEADER, size):
                raise LoadError(f"{shard} is not a safetensors file, or is cut short ({size:,} bytes). {REPAIR}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except OSError as error:
        raise LoadError(f"{shard} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise LoadError(f"{shard} is corrupt: its header cannot be read. {REPAIR}") from error
    if size != end:
        raise LoadError(f"{shard} is corrupt: {size:,} bytes, but its header speaks of {end:,}. {REPAIR}")
    return dict(header)
