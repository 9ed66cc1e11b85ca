"""The files in deploy/: the manifest fits Kubernetes' schemas, its settings and the dashboard fit the adapter."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bridge_adapter.settings import AdapterSettings
from bridge_adapter.settings_file import check_settings
from bridge_adapter.telemetry.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MANIFEST = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
BY_KIND: dict[str, Any] = {item["kind"]: item for item in MANIFEST}
VERSIONS = ("1.29", "1.37")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", BY_KIND)
def test_the_manifest_fits_the_schemas(kind: str, version: str) -> None:
    kubernetes_validate.validate(BY_KIND[kind], version, strict=True)


def test_the_schemas_find_mistakes() -> None:
    wrong = json.loads(json.dumps(BY_KIND["Deployment"]))
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_parts_of_the_manifest_fit_each_other() -> None:
    labels = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    assert BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert (
        BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
        == BY_KIND["Deployment"]["metadata"]["name"]
    )


def test_the_settings_in_the_manifest_are_right() -> None:
    settings = msgspec.convert(yaml.safe_load(BY_KIND["ConfigMap"]["data"]["settings.yaml"]), AdapterSettings)
    check_settings(settings)
    assert settings.keys.clients[0].sha256 == hashlib.sha256(b"change-me").hexdigest()
    pod = BY_KIND["Deployment"]["spec"]["template"]["spec"]
    assert settings.server.drain + 5 < pod["terminationGracePeriodSeconds"]
    assert pod["containers"][0]["ports"][0]["containerPort"] == settings.server.port


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"bridge_\w+", query)}
    there = set()
    for family in text_string_to_metric_families(Metrics().text().decode()):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        there |= {family.name + suffix for suffix in suffixes}
    assert asked <= there
    unseen = {name.removesuffix("_bucket") for name in there} - {name.removesuffix("_bucket") for name in asked}
    assert {name for name in unseen if not name.endswith(("_count", "_sum"))} == set()


def test_the_container_file_copies_files_that_are_there() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert all((DEPLOY.parent / name).exists() for names in copied for name in names)
