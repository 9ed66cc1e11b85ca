"""serve.yaml and the manifest as Ray's own schema reads them, with the arguments that the application takes."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deploy.ray.application import Arguments, build

RAY = Path(__file__).resolve().parents[2] / "deploy/ray"


@pytest.mark.parametrize("file", ["serve.yaml", "rayservice.yaml"])
def test_ray_reads_what_is_deployed(file: str) -> None:
    tree = yaml.safe_load((RAY / file).read_text())
    if tree.get("kind") == "RayService":
        tree = yaml.safe_load(tree["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(tree).applications
    Arguments.model_validate(application.args)


def test_the_front_does_not_wait_the_second_that_ray_gives_a_loss_to_explain_itself() -> None:
    """Ray reads such names in the process that calls: RAY_CONFIG in src/ray/common/ray_config_def.h of its sources."""
    environment = build(Arguments())._bound_deployment.ray_actor_options["runtime_env"]["env_vars"]
    names = "RAY_timeout_ms_task_wait_for_death_info", "RAY_core_worker_internal_heartbeat_ms"
    assert [int(environment[name]) <= 100 for name in names] == [True, True]
