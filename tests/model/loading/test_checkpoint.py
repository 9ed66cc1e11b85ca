import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from truss_model.errors import LoadError
from truss_model.loading.checkpoint import read_checkpoint

SECOND = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(tiny_mistral: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_mistral, tmp_path / "model"))


def cut(file: Path, size: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(size)


def overwrite(file: Path, position: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        opened.write(data)


def retype(folder: Path) -> None:
    """As if the weights had been stored quantised: their types say integers."""
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        file.write_bytes(data.replace(b'"F32"', b'"I32"'))


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_what_a_checkpoint_holds(tiny_mistral: Path) -> None:
    checkpoint = read_checkpoint(tiny_mistral)
    embeddings = 2 * 32768 * 128
    assert checkpoint.dtypes == {"F32"}
    assert checkpoint.linear_parameters == 2 * (128 * 128 * 2 + 128 * 32 * 2 + 3 * 128 * 256)
    assert checkpoint.parameters == embeddings + checkpoint.linear_parameters + 5 * 128
    assert checkpoint.stored_bytes == 4 * checkpoint.parameters
    assert not checkpoint.quantized


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "No config.json in"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
    "no weights": (lambda folder: (folder / INDEX).unlink(), "neither model.safetensors nor"),
    "missing shard": (lambda folder: (folder / SECOND).unlink(), f"1 of 2 shards are missing in {{folder}}: {SECOND}"),
    "cut shard": (lambda folder: cut(folder / SECOND, 1_000_000), f"{SECOND} is corrupt: 1,000,000 bytes"),
    "empty shard": (lambda folder: cut(folder / SECOND, 0), f"{SECOND} is not a safetensors file"),
    "git-lfs pointer": (lambda folder: (folder / SECOND).write_text("version https://git-lfs"), "not a safetensors"),
    "corrupt header": (lambda folder: overwrite(folder / SECOND, 8, b"\xff\xff"), "its header cannot be read"),
    "header of other shape": (lambda folder: overwrite(folder / SECOND, 8, b'{"a":1}' + b" " * 2), "header"),
    "tensor elsewhere": (
        lambda folder: edit_index(folder, lambda held: held.update({"model.extra.weight": SECOND})),
        f"{SECOND} lacks model.extra.weight",
    ),
    "index without map": (lambda folder: (folder / INDEX).write_text("{}"), "no weight_map"),
    "wrong dtype": (retype, "tensors of type I32, but config.json has no quantization_config"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_its_file(copy: Path, damage: str) -> None:
    do, told = DAMAGE[damage]
    do(copy)
    with pytest.raises(LoadError) as error:
        read_checkpoint(copy)
    assert told.format(folder=copy) in error.value.message
    assert str(copy) in error.value.message


def test_integers_are_right_where_the_config_says_how_they_are_quantised(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    retype(copy)
    assert read_checkpoint(copy).quantized
