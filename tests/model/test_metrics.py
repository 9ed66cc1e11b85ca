"""Every count and distribution of the engine is scraped, under a name that says whether it only grows."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from truss_model.engine.histogram import Distribution
from truss_model.engine.observations import Observations
from truss_model.engine.stats import Attempt, EngineStats
from truss_model.metrics import DISTRIBUTIONS, export

DOCS = Path(__file__).resolve().parents[2] / "docs/metrics.md"
NAMES = EngineStats._fields
EMPTY = EngineStats(**dict.fromkeys(NAMES, 0))


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


def test_every_count_is_exported_as_it_is_when_scraped() -> None:
    registry = CollectorRegistry(auto_describe=True)
    offset = 0
    export(lambda: EngineStats(**{name: offset + i for i, name in enumerate(NAMES)}), registry=registry)
    first = scraped(registry)
    assert first["truss_model_rows_running"] == 0.0
    assert first["truss_model_generated_tokens_total"] == NAMES.index("generated_tokens")
    assert len(first) == len(NAMES) + 1
    offset = 100
    assert scraped(registry)["truss_model_rows_running"] == 100.0


def test_the_share_of_used_pages_is_what_rows_hold_of_all_pages() -> None:
    registry = CollectorRegistry()
    stats = EngineStats(**{**dict.fromkeys(NAMES, 0), "pages_total": 200, "pages_free": 150})
    export(lambda: stats, registry=registry)
    assert scraped(registry)["truss_model_pages_used_ratio"] == 0.25


def test_a_distribution_is_exported_as_a_histogram_with_cumulative_buckets() -> None:
    registry = CollectorRegistry()
    export(
        lambda: EMPTY, distributions=lambda: {"step_rows": Distribution((1.0, 2.5), (3, 2, 1), 12.5)}, registry=registry
    )
    found = {name: value for name, value in scraped(registry).items() if "step_rows" in name}
    assert found == {
        'truss_model_step_rows_bucket{le="1.0"}': 3.0,
        'truss_model_step_rows_bucket{le="2.5"}': 5.0,
        'truss_model_step_rows_bucket{le="+Inf"}': 6.0,
        "truss_model_step_rows_count": 6.0,
        "truss_model_step_rows_sum": 12.5,
    }


def test_every_distribution_of_the_engine_has_a_description() -> None:
    assert Observations().distributions().keys() == DISTRIBUTIONS.keys()


def test_the_page_of_metrics_names_each_one_and_no_other() -> None:
    registry = CollectorRegistry()
    export(lambda: EMPTY, lambda: [Attempt("plain", "serves", 0.0, "", 1.0)], Observations().distributions, registry)
    there = {re.sub(r"_(bucket|count|sum)$", "", name.partition("{")[0]) for name in scraped(registry)}
    assert set(re.findall(r"truss_model_\w+", DOCS.read_text())) == there


def test_what_was_tried_at_the_start_is_exported() -> None:
    attempts = [
        Attempt("all kernels", "off", 0.25, "log-probabilities differ", 1.0),
        Attempt("plain torch", "serves", 1e-5, "", 1.0),
    ]
    registry = CollectorRegistry(auto_describe=True)
    export(lambda: EMPTY, lambda: attempts, registry=registry)
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'truss_model_start{detail="log-probabilities differ",outcome="off",rung="all kernels"} 0.0',
        'truss_model_start{detail="",outcome="serves",rung="plain torch"} 1.0',
        'truss_model_self_check_gap{rung="all kernels"} 0.25',
    ):
        assert line in lines
