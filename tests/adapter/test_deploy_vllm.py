"""deploy/vllm: Truss reads the configuration and makes an image's folder of it, the adapter reads its settings."""

import argparse
import shlex
from pathlib import Path

from truss.base.truss_config import TrussConfig
from truss.contexts.image_builder.serving_image_builder import ServingImageBuilderContext

from bridge_adapter.openai_api.operations import OPERATIONS
from bridge_adapter.settings_file import load_settings

VLLM = Path(__file__).resolve().parents[2] / "deploy/vllm"


def truss_config() -> TrussConfig:
    return TrussConfig.from_yaml(VLLM / "config.yaml")


def vllm_arguments(command: str) -> argparse.Namespace:
    """What vLLM is started with; an argument that is not listed here is an error."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("program", choices=["vllm"])
    parser.add_argument("mode", choices=["serve"])
    parser.add_argument("model")
    for name in ("--served-model-name", "--model-impl", "--tool-call-parser"):
        parser.add_argument(name, required=True)
    for name in ("--tensor-parallel-size", "--max-model-len", "--port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    return parser.parse_args(shlex.split(command))


def test_truss_reads_the_configuration_and_its_parts_agree() -> None:
    config = truss_config()
    assert config.docker_server is not None and config.docker_server.start_command is not None
    arguments = vllm_arguments(config.docker_server.start_command)
    assert arguments.model_impl == "transformers"
    assert arguments.tensor_parallel_size == config.resources.accelerator.count == 4
    assert arguments.port == config.docker_server.server_port != 8080
    (weights,) = config.weights.sources
    assert arguments.model == weights.mount_location
    assert config.model_metadata["example_model_input"]["model"] == arguments.served_model_name


def test_truss_makes_the_folder_of_the_image(tmp_path: Path) -> None:
    ServingImageBuilderContext.run(VLLM).prepare_image_build_dir(tmp_path)
    assert "FROM vllm/vllm-openai:" in (tmp_path / "Dockerfile").read_text()
    made = "\n".join(file.read_text() for file in tmp_path.glob("*.conf"))
    assert "--model-impl transformers" in made
    assert "/v1/chat/completions" in made


def test_the_adapter_reads_its_settings_and_asks_vllm_by_the_name_it_serves() -> None:
    settings = load_settings(VLLM / "adapter.yaml", {"BASETEN_API_KEY": "example"})
    ((name, model),) = settings.models.items()
    docker_server = truss_config().docker_server
    assert docker_server is not None and docker_server.start_command is not None
    assert model.dialect == "openai"
    assert model.upstream_model == name == vllm_arguments(docker_server.start_command).served_model_name
    assert model.baseten is not None and model.baseten.url().endswith("/environments/production/sync/v1")


def test_the_example_is_a_request_that_the_adapter_takes() -> None:
    plan = OPERATIONS["/chat/completions"].plan(truss_config().model_metadata["example_model_input"])
    assert plan.job.stream
