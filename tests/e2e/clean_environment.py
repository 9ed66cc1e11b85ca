"""An interpreter that sees what the image would install and nothing else: no dev packages, no repository.

The packages themselves are links into the environment that runs the tests, so making one takes a second. A requirement
that is not there, or not at a version that is asked for, is an error, as it would be in the image.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class MissingRequirement(Exception):
    """The image would install something that was not tested here."""


def make_clean_environment(requirements: Path, folder: Path) -> Path:
    """Return the Python of a new environment in `folder` that holds the closure of a requirements file."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    _link(closure(read_requirements(requirements)), folder / "lib" / version / "site-packages")
    return folder / "bin" / "python"


def read_requirements(file: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def closure(wanted: list[Requirement]) -> dict[str, Distribution]:
    """Every distribution that the requirements pull in, by canonical name."""
    found: dict[str, Distribution] = {}
    expanded: set[tuple[str, str]] = set()
    queue = [(requirement, "") for requirement in wanted]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found[name] = _installed(requirement)
        for part in {"", *requirement.extras}:
            if (name, part) not in expanded:
                expanded.add((name, part))
                queue += [(inner, part) for inner in _requirements(name)]
    return found


@cache
def _requirements(name: str) -> tuple[Requirement, ...]:
    return tuple(Requirement(line) for line in distribution(name).requires or ())


def _installed(requirement: Requirement) -> Distribution:
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        raise MissingRequirement(f"{requirement} is not installed here") from None
    if not requirement.specifier.contains(found.version, prereleases=True):
        raise MissingRequirement(f"{requirement} is asked for, but {found.version} was tested")
    return found


def _link(wanted: dict[str, Distribution], site: Path) -> None:
    """Link whole folders that belong to wanted distributions alone, and single files where folders are shared."""
    files = list(_files())
    owners: dict[PurePosixPath, set[str]] = {}
    for name, path in files:
        for folder in path.parents:
            owners.setdefault(folder, set()).add(name)
    source = Path(str(distribution("pip").locate_file("")))
    linked: set[PurePosixPath] = set()
    for name, path in files:
        if name in wanted:
            whole = [folder for folder in path.parents if folder.name and owners[folder] <= wanted.keys()]
            target = whole[-1] if whole else path
            if target not in linked:
                linked.add(target)
                (site / target).parent.mkdir(parents=True, exist_ok=True)
                os.symlink(source / target, site / target)


def _files() -> Iterator[tuple[str, PurePosixPath]]:
    for found in distributions():
        name = canonicalize_name(found.metadata["Name"])
        for path in found.files or ():
            if ".." not in path.parts and path.parts[0] != "__pycache__":
                yield name, PurePosixPath(path)
