"""The whole of loading, in every branch, with the tiny model in the place of the 7B."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from truss_model.errors import LoadError
from truss_model.loading import load_model
from truss_model.loading.cuda import CudaState
from truss_model.loading.demo import demo_folder
from truss_model.loading.weights import Sources
from truss_model.settings import ModelSettings, Quantization

CPU = ModelSettings(device="cpu")
IDS = torch.tensor([[1, 23325, 29493]])


@pytest.fixture
def copy(tiny_mistral: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_mistral, tmp_path / "model"))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits.float()[0, -1]  # type: ignore[no-any-return]


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_mounted_weights_are_loaded_as_they_are_stored(tiny_mistral: Path) -> None:
    config = {"model_name": "mistral-7b", "weights": [{"source": "hf://o/n", "mount_location": str(tiny_mistral)}]}
    loaded = load_model(CPU, config, None)
    assert (loaded.name, loaded.folder) == ("mistral-7b", tiny_mistral)
    assert (loaded.model.dtype, loaded.model.training) == (torch.float32, False)
    stored = load_file(next(tiny_mistral.glob("*1-of-*.safetensors")))
    held = loaded.model.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in stored.items())


def test_a_folder_in_another_dtype(tiny_mistral: Path) -> None:
    loaded = load_model(ModelSettings(device="cpu", path=tiny_mistral, dtype="bfloat16"), {}, None)
    assert loaded.name == tiny_mistral.name
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_quantised_weights_are_smaller_and_say_nearly_the_same(tiny_mistral: Path, quantization: Quantization) -> None:
    plain = load_model(ModelSettings(device="cpu", path=tiny_mistral), {}, None).model
    settings = ModelSettings(device="cpu", path=tiny_mistral, quantization=quantization, dtype="float32")
    quantized = load_model(settings, {}, None).model
    assert type(quantized.model.layers[0].mlp.up_proj.weight).__module__.startswith("torchao")
    assert quantized.lm_head.weight.dtype == torch.float32
    similarity = torch.cosine_similarity(logits(plain), logits(quantized), dim=0)
    assert 0.99 < float(similarity) < 1.0


def test_a_missing_shard_is_found_before_anything_is_loaded(copy: Path) -> None:
    (copy / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(LoadError, match="1 of 2 shards are missing"):
        load_model(ModelSettings(device="cpu", path=copy), {}, None)


def test_tensors_that_the_architecture_needs_and_the_shards_lack(copy: Path) -> None:
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    lost = "model.layers.1.mlp.up_proj.weight"
    shard = copy / index["weight_map"].pop(lost)
    tensors = load_file(shard)
    del tensors[lost]
    save_file(tensors, shard, metadata={"format": "pt"})
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=f"lack 1 of the model's tensors, {lost} among them"):
        load_model(ModelSettings(device="cpu", path=copy), {}, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"intermediate_size": 512}, "have the wrong shape for 6 of the model's tensors, model.layers.0.mlp.down_proj"),
        (
            {"model_type": "no_such_model", "architectures": ["NoSuchModel"]},
            "architecture is one that transformers has",
        ),
        ({"num_hidden_layers": 3}, "lack 9 of the model's tensors, model.layers.2"),
    ],
)
def test_a_config_of_another_model(copy: Path, change: dict[str, Any], told: str) -> None:
    edit_config(copy, **change)
    with pytest.raises(LoadError) as error:
        load_model(ModelSettings(device="cpu", path=copy), {}, None)
    assert told in error.value.message
    assert str(copy) in error.value.message


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadError, match=r"cannot be kept in .*file/cache.*TRUSS_MODEL_CACHE_DIR"):
        demo_folder(tmp_path / "file" / "cache")


FULL_DISK = """
import resource, sys
from pathlib import Path
from truss_model.loading.cuda import CudaState
from truss_model.loading.demo import demo_folder
from truss_model.loading.weights import Sources
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
demo_folder(Path(sys.argv[1]))
"""


def test_a_full_disk_is_told_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    failed = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, timeout=110)
    assert "LoadError: The demo model cannot be kept in" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["SmolLM2-135M-Instruct.lock"]


def test_a_converted_demo_model_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "SmolLM2-135M-Instruct").mkdir()
    assert demo_folder(tmp_path) == tmp_path / "SmolLM2-135M-Instruct"


NO_GPU = CudaState("2.13.0+cu130", "13.0", "550.90.07", "The NVIDIA driver on your system is too old.")
A10G: dict[str, Any] = {"resources": {"accelerator": "A10G"}}


@pytest.mark.parametrize("weights", ["mounted", "path", "hub"])
def test_an_accelerator_that_cannot_be_used_is_an_error_before_anything_is_downloaded(
    tiny_mistral: Path, weights: str
) -> None:
    mount = {"weights": [{"source": "hf://o/n", "mount_location": str(tiny_mistral)}]}
    hub = {"weights": [{"source": "hf://o/n", "mount_location": "/nothing/here"}]}
    config = {"mounted": A10G | mount, "path": A10G, "hub": A10G | hub}[weights]
    settings = ModelSettings(path=tiny_mistral if weights == "path" else None)
    with pytest.raises(LoadError, match=r"accelerator in config.yaml is A10G, .* driver is 550.90.07; .* needs 580"):
        load_model(settings, config, None, cuda=NO_GPU)


def test_a_machine_without_a_gpu_falls_back_and_says_so(tiny_mistral: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_model(ModelSettings(path=tiny_mistral, demo_fallback=True), A10G, None, cuda=NO_GPU)
    assert loaded.model.device.type == "cpu"
    assert (
        "resources.accelerator in config.yaml is A10G, but there is no usable GPU: serving from the CPU." in caplog.text
    )


def test_the_demo_model_needs_no_accelerator(tiny_mistral: Path) -> None:
    sources = Sources(demo=lambda: tiny_mistral)
    assert load_model(ModelSettings(id="demo"), A10G, None, sources, NO_GPU).model.device.type == "cpu"
