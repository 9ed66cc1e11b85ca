"""What people see of a load that fails once the weights are read, and of a model that its device cannot compute."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from truss_model.errors import LoadError
from truss_model.loading.placement import Placement
from truss_model.loading.pretrained import load_pretrained, loading


@pytest.fixture
def copy(tiny_mistral: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_mistral, tmp_path / "model"))


PLACEMENT = Placement("float32", "cpu", "2.0 GB of weights in float32 on a card")
LARGER = (
    "ran out of GPU memory. Set model_metadata.model.quantization to int8 or int4, lower engine.kv_cache_fraction or "
    "engine.max_rows, or choose a larger accelerator under resources in config.yaml."
)


def test_memory_that_runs_out_while_the_weights_are_loaded() -> None:
    with pytest.raises(LoadError) as error, loading(Path("folder"), PLACEMENT):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 500.00 MiB.")
    assert error.value.message == f"Loading 2.0 GB of weights in float32 on a card {LARGER}"


def test_a_shard_that_is_cut_after_it_was_looked_at(copy: Path) -> None:
    (shard, *_) = sorted(copy.glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(LoadError) as error:
        load_pretrained(copy, PLACEMENT, "none")
    assert error.value.message.startswith(f"A shard in {copy} is corrupt: ")
    assert error.value.message.endswith(". Copy or download it again.")


WITHOUT_TORCHAO = """
import sys
from pathlib import Path
from truss_model.import_block import import_block
with import_block("torchao"):
    from truss_model.loading.pretrained import load_pretrained
    from truss_model.loading.placement import Placement
    load_pretrained(Path(sys.argv[1]), Placement("float32", "cpu", "weights"), "int8")
"""


def test_quantisation_without_its_package(tiny_mistral: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCHAO, tiny_mistral]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert failed.stderr.splitlines()[-1] == (
        "truss_model.errors.LoadError: model_metadata.model.quantization is int8, which needs torchao. Add "
        "torchao==0.18.0 to the requirements in config.yaml, or set quantization to none."
    )
