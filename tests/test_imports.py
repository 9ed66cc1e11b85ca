"""Who may import whom, how long a file may be, and which names say nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_OURS = {"vendor", "node_modules"}
PACKAGES = ("truss_model", "bridge_adapter", "scripts", "benchmarks", "tests")
SERVER = {"fastapi", "starlette", "truss", "uvicorn"}
TENSORS = {"torch", "transformers", "accelerate", "safetensors"}
HTTP_CLIENTS = {"aiohttp", "httpx", "httpx2", "requests", "urllib3"}
INPUT_OUTPUT = {"asyncio", "threading", "socket", "subprocess", "os", "io", "pathlib", "tempfile", "shutil", "time"}
MEANINGLESS = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
LONGEST_FILE = 300


def python_files(package: str) -> list[Path]:
    return sorted(path for path in (REPOSITORY / package).rglob("*.py") if not NOT_OURS & {*path.parts})


def imported(file: Path) -> set[str]:
    """The modules a file names, anywhere in it, as written: `a.b` for `import a.b` and for `from a.b import c`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(REPOSITORY).parts[: -node.level] if node.level else ()
            names.add(".".join([*package, *(node.module.split(".") if node.module else ())]))
    return names


def top_level(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def forbidden(package: str, modules: set[str], *, except_for: tuple[str, ...] = ()) -> Iterator[str]:
    """`file: module` for each file of a package that names one of the modules and is not excepted."""
    for file in python_files(package):
        name = file.relative_to(REPOSITORY / package).as_posix()
        if not name.startswith(except_for):
            yield from (f"{package}/{name}: {module}" for module in sorted(top_level(file) & modules))


def test_the_model_and_the_adapter_do_not_know_each_other() -> None:
    assert list(forbidden("truss_model", {"bridge_adapter"})) == []
    assert list(forbidden("bridge_adapter", {"truss_model"})) == []


def test_only_model_py_knows_truss() -> None:
    assert list(forbidden("truss_model", SERVER, except_for=("model.py",))) == []


def test_only_the_engine_and_loading_know_tensors() -> None:
    allowed = ("engine/", "loading", "startup.py", "template_tokenizer.py")
    assert list(forbidden("truss_model", TENSORS, except_for=allowed)) == []
    assert "torch" not in top_level(REPOSITORY / "truss_model/template_tokenizer.py")  # a tokenizer needs no tensor


def test_the_adapter_needs_no_model_packages() -> None:
    heavy = {*TENSORS, "truss", "numpy", "mistral_common", "llguidance"}
    assert list(forbidden("bridge_adapter", heavy)) == []


def test_only_upstream_talks_http() -> None:
    assert list(forbidden("bridge_adapter", HTTP_CLIENTS, except_for=("upstream.py",))) == []


@pytest.mark.parametrize(
    "file",
    [
        *(f"truss_model/{name}.py" for name in ("text", "tool_calls", "events", "request")),
        *(f"bridge_adapter/{name}.py" for name in ("translate", "chunks")),
    ],
)
def test_text_and_protocol_are_pure(file: str) -> None:
    assert top_level(REPOSITORY / file) & (INPUT_OUTPUT | SERVER | TENSORS | HTTP_CLIENTS | {"logging"}) == set()


def test_truss_reads_the_annotations_of_model_py_as_objects() -> None:
    assert "__future__" not in top_level(REPOSITORY / "truss_model/model.py")


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    suffixes = {".py", ".js", ".css", ".html", ".c", ".cu"}
    files = (path for package in PACKAGES for path in (REPOSITORY / package).rglob("*") if path.suffix in suffixes)
    lengths = {path: len(path.read_text().splitlines()) for path in files if not NOT_OURS & {*path.parts}}
    assert {str(path.relative_to(REPOSITORY)): n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_every_file_is_named_after_a_noun() -> None:
    assert [path for package in PACKAGES for path in python_files(package) if path.stem in MEANINGLESS] == []
