"""Every count of the engine is scraped, under a name that says whether it only grows."""

from dataclasses import fields

from prometheus_client import CollectorRegistry, generate_latest

from truss_model.engine.stats import EngineStats
from truss_model.metrics import export


def test_every_count_is_exported_as_it_is_when_scraped() -> None:
    names = [field.name for field in fields(EngineStats)]
    registry = CollectorRegistry(auto_describe=True)
    offset = 0
    export(lambda: EngineStats(**{name: offset + i for i, name in enumerate(names)}), registry)

    def scraped() -> dict[str, float]:
        lines = generate_latest(registry).decode().splitlines()
        return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}

    first = scraped()
    assert first["truss_model_rows_running"] == 0.0
    assert first["truss_model_generated_tokens_total"] == names.index("generated_tokens")
    assert len(first) == len(names)
    offset = 100
    assert scraped()["truss_model_rows_running"] == 100.0
