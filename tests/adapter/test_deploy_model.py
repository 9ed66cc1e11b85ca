"""deploy/keda.yaml and the model's board: they fit Kubernetes' schemas and ask for metrics that the model has."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.model.test_metrics import EMPTY
from truss_model.engine.observations import Observations
from truss_model.engine.stats import Attempt
from truss_model.metrics import export
from truss_model.settings import read_settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BY_KIND: dict[str, Any] = {item["kind"]: item for item in yaml.safe_load_all((DEPLOY / "keda.yaml").read_text())}
SCALED = BY_KIND["ScaledObject"]["spec"]
POD = BY_KIND["Deployment"]["spec"]["template"]["spec"]
VERSIONS = ("1.29", "1.37")
# Of KEDA's ScaledObject and of its prometheus trigger, as its documentation lists them.
SCALED_OBJECT = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "fallback", "advanced"}
PROMETHEUS = {"serverAddress", "query", "threshold", "ignoreNullValues"}


def exported() -> set[str]:
    """All names of samples."""
    registry = CollectorRegistry()
    export(lambda: EMPTY, lambda: [Attempt("plain", "serves", 0.0, "", 1.0)], Observations().distributions, registry)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {sample.name for family in families for sample in family.samples}


def autoscaler() -> dict[str, Any]:
    """The HorizontalPodAutoscaler that KEDA makes of the ScaledObject."""
    metrics = [
        {
            "type": "External",
            "external": {
                "metric": {"name": f"s{index}-prometheus"},
                "target": {"type": trigger["metricType"], "averageValue": trigger["metadata"]["threshold"]},
            },
        }
        for index, trigger in enumerate(SCALED["triggers"])
    ]
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "keda-hpa-mistral-7b"},
        "spec": {
            "scaleTargetRef": SCALED["scaleTargetRef"],
            "minReplicas": SCALED["minReplicaCount"],
            "maxReplicas": SCALED["maxReplicaCount"],
            "metrics": metrics,
            **SCALED["advanced"]["horizontalPodAutoscalerConfig"],
        },
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_the_manifest_fits_the_schemas(kind: str, version: str) -> None:
    kubernetes_validate.validate(BY_KIND[kind], version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_keda_makes_of_the_scaled_object_fits_the_schemas(version: str) -> None:
    kubernetes_validate.validate(autoscaler(), version, strict=True)


def test_the_scaled_object_has_fields_that_keda_knows() -> None:
    assert SCALED.keys() <= SCALED_OBJECT | {"triggers"}
    assert all(trigger["type"] == "prometheus" for trigger in SCALED["triggers"])
    for trigger in SCALED["triggers"]:
        assert trigger["metadata"].keys() == PROMETHEUS
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings only"


def test_the_scaled_object_scales_the_deployment_within_its_fallback() -> None:
    deployment = BY_KIND["Deployment"]
    assert SCALED["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"], "kubectl apply would undo what KEDA chose"
    assert SCALED["minReplicaCount"] <= SCALED["fallback"]["replicas"] <= SCALED["maxReplicaCount"]


def test_the_parts_of_the_manifest_fit_each_other() -> None:
    labels = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    asked = re.findall(
        r'app_kubernetes_io_name="([^"]+)"', " ".join(t["metadata"]["query"] for t in SCALED["triggers"])
    )
    assert asked == [labels["app.kubernetes.io/name"]] * 2


def test_the_pod_outlives_the_drain_that_its_environment_sets() -> None:
    (container,) = POD["containers"]
    environment = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    settings = read_settings(
        {}, {name: value for name, value in environment.items() if name.startswith("TRUSS_MODEL_")}
    )
    assert settings.serving.drain_seconds + 5 < POD["terminationGracePeriodSeconds"]


def test_the_scaled_object_asks_for_metrics_that_are_there() -> None:
    queries = " ".join(trigger["metadata"]["query"] for trigger in SCALED["triggers"])
    assert set(re.findall(r"truss_model_\w+", queries)) == {"truss_model_requests_waiting", "truss_model_rows_running"}
    assert set(re.findall(r"truss_model_\w+", queries)) <= exported()


def test_the_board_shows_every_metric_and_no_other() -> None:
    board = json.loads((DEPLOY / "grafana-model.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [
        variable["query"]["query"] for variable in board["templating"]["list"] if variable["name"] == "instance"
    ]
    asked = {name for query in queries for name in re.findall(r"truss_model_\w+", query)}
    there = exported()
    assert asked <= there
    assert {name for name in there - asked if not name.endswith(("_count", "_sum"))} == set()


def test_the_boards_have_panels_and_addresses_of_their_own() -> None:
    boards = [json.loads((DEPLOY / f"grafana-{name}.json").read_text()) for name in ("model", "dashboard")]
    assert len({board["uid"] for board in boards}) == 2
    for board in boards:
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len({panel["id"] for panel in board["panels"]}) == len(set(places)) == len(places)
