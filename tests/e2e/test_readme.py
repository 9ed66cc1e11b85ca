"""The README's tables are true and complete."""

import re
from dataclasses import fields
from typing import get_type_hints

import yaml
from openai.types.chat import completion_create_params

from bridge_adapter.openai_api.operations import OPERATIONS
from scripts.serve import REPOSITORY
from truss_model.settings import ModelSettings

README = (REPOSITORY / "README.md").read_text()


def names_in_first_column(heading: str) -> set[str]:
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_field_of_a_request_is_in_the_table() -> None:
    documented = names_in_first_column("Parameters")
    openai = set(get_type_hints(completion_create_params.CompletionCreateParamsStreaming))
    assert openai - documented == set()
    known = OPERATIONS["/chat/completions"].known
    assert known - documented == set()
    assert documented - openai - known == set()


def test_every_setting_of_the_model_is_in_the_table() -> None:
    documented = names_in_first_column("Configuration")
    assert {f"TRUSS_MODEL_{field.name.upper()}" for field in fields(ModelSettings)} - documented == set()


def test_what_the_image_installs_is_what_was_tested() -> None:
    """config.yaml's pins are those of constraints.txt, and the model's extra has them all."""
    pins = {line.lower().replace("_", "-") for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    requirements = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["requirements"]
    assert {line for line in requirements if not line.startswith("--") and line not in pins} == set()
