"""What CONTRIBUTING.md and the README's map name is there."""

import re

import pytest

from tests.test_imports import REPOSITORY

ROOTS = ("bridge_adapter/", "truss_model/", "tests/", "scripts/", "deploy/", ".ci/")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_every_path_in_the_text_exists(page: str) -> None:
    named = re.findall(r"`([\w./-]+)`", (REPOSITORY / page).read_text())
    paths = {name for name in named if name.startswith(ROOTS)}
    assert paths
    assert sorted(path for path in paths if not (REPOSITORY / path).exists()) == []


def test_every_folder_of_the_packages_is_on_the_map() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    shown = readme.partition("### Where everything is")[2].partition("[CONTRIBUTING")[0]
    for package in ("bridge_adapter", "truss_model", "truss_model/engine"):
        folders = [path.parent.name for path in (REPOSITORY / package).glob("*/__init__.py")]
        assert [folder for folder in folders if f"{folder}/" not in shown] == []
