"""deploy/ray's files without Ray: pod templates fit Kubernetes' schemas, and what must agree agrees."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

RAY = Path(__file__).resolve().parents[2] / "deploy/ray"
SERVICE: dict[str, Any] = yaml.safe_load((RAY / "rayservice.yaml").read_text())
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
PODS = {"head": CLUSTER["headGroupSpec"], **{group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}}
SERVED = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("group", PODS)
def test_the_pod_templates_fit_the_schemas(group: str, version: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group}, "spec": PODS[group]["template"]["spec"]}
    kubernetes_validate.validate(pod, version, strict=True)


def test_a_worker_pod_holds_one_replica_and_outlives_its_drain() -> None:
    arguments = SERVED["applications"][0]["args"]
    worker = PODS["gpu"]["template"]["spec"]
    requests = worker["containers"][0]["resources"]["requests"]
    assert int(requests["nvidia.com/gpu"]) == arguments["num_gpus"]
    assert int(requests["cpu"]) >= arguments["num_cpus"]
    assert worker["terminationGracePeriodSeconds"] > arguments["drain_seconds"]
    assert PODS["gpu"]["maxReplicas"] == arguments["max_replicas"]


def test_both_files_serve_the_same_application() -> None:
    (alone,) = yaml.safe_load((RAY / "serve.yaml").read_text())["applications"]
    (on_kubernetes,) = SERVED["applications"]
    assert alone["import_path"] == on_kubernetes["import_path"] == "deploy.ray.application:build"
    assert CLUSTER["rayVersion"] in (RAY / "Containerfile").read_text()
