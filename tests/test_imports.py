"""The floors: which folder may import which, what is pure, how long a file may be, and which names say nothing."""

import ast
from collections.abc import Iterator, Mapping
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

# Each room (a folder, or a file beside the folders) and the rooms that it may import. Whoever needs another edge
# moves code instead; the order is from the top floor down, so every entry names only rooms that stand below it.
ADAPTER_FLOORS: Mapping[str, set[str]] = {
    "cli": {"server", "upstream", "settings_file", "settings", "errors"},
    "server": {"upstream", "openai_api", "telemetry", "web", "settings_file", "contract", "settings", "errors"},
    "upstream": {"telemetry", "contract", "settings", "errors"},
    "web": set(),
    "telemetry": {"contract", "settings", "errors"},
    "settings_file": {"openai_api", "settings", "errors"},
    "openai_api": {"contract", "errors"},
    "settings": {"errors"},
    "contract": {"errors"},
    "errors": set(),
}
MODEL_FLOORS: Mapping[str, set[str]] = {
    "model": {"openai_routes", "startup", "service", "collector", "settings", "errors"},
    "openai_routes": {"output", "settings", "errors"},
    "startup": {"service", "tokenizer", "engine", "metrics", "settings", "errors"},
    "worker": {"built_engine", "collector", "engine", "settings", "import_block", "errors"},
    "built_engine": {"loading", "grammar", "tokenizer", "engine", "settings", "errors"},
    "service": {"grammar", "output", "tokenizer", "request", "engine", "settings", "errors"},
    "grammar": {"tokenizer", "request", "engine", "errors"},
    "output": {"tokenizer", "request", "engine", "errors"},
    "tokenizer": {"request", "engine", "errors"},
    "request": {"engine", "errors"},
    "loading": {"engine", "settings", "errors"},
    "metrics": {"engine"},
    "collector": set(),
    "settings": {"engine", "errors"},
    "import_block": set(),
    "engine": {"errors"},
    "errors": set(),
}
ENGINE_FLOORS: Mapping[str, set[str]] = {
    "remote": {
        "worker_process",
        "admission",
        "messages",
        "histogram",
        "generation",
        "sampling_params",
        "settings",
        "stats",
    },
    "worker_process": {"messages", "stats"},
    "pipe_delivery": {"messages", "delivery", "histogram", "generation", "stats"},
    "messages": {"generation", "sampling_params"},
    "engine": {
        "execution",
        "scheduling",
        "commands",
        "delivery",
        "admission",
        "generation",
        "sampling_params",
        "settings",
        "stats",
        "observations",
        "scheduler_slice",
        "step_faults",
    },
    "step_faults": {"execution"},
    "observations": {"scheduling", "histogram"},
    "histogram": set(),
    "delivery": {"generation"},
    "commands": set(),
    "admission": {"generation", "sampling_params"},
    "execution": {"scheduling", "generation", "sampling_params", "settings", "stats"},
    "scheduling": {"generation", "sampling_params", "settings"},
    "scheduler_slice": set(),
    "stats": set(),
    "generation": {"sampling_params"},
    "sampling_params": set(),
    "settings": set(),
}


def python_files(package: str) -> list[Path]:
    return sorted(path for path in (REPOSITORY / package).rglob("*.py") if not NOT_OURS & {*path.parts})


def imported(file: Path) -> set[str]:
    """The modules a file names, anywhere in it: `a.b` for `import a.b`, `a.b.c` and `a.b` for `from a.b import c`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(REPOSITORY).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *(node.module.split(".") if node.module else ())])
            names.update((module, *(f"{module}.{alias.name}" for alias in node.names)))
    return names


def top_level(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def forbidden(package: str, modules: set[str], *, except_for: tuple[str, ...] = ()) -> Iterator[str]:
    """`file: module` for each file of a package that names one of the modules and is not excepted."""
    for file in python_files(package):
        name = file.relative_to(REPOSITORY / package).as_posix()
        if not name.startswith(except_for):
            yield from (f"{package}/{name}: {module}" for module in sorted(top_level(file) & modules))


def edges(package: str) -> Iterator[tuple[str, str, str]]:
    """(file, its room, a room that it imports) for every import between two rooms of a package."""
    root = REPOSITORY / package
    rooms = {path.stem for path in root.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    for file in python_files(package):
        name = file.relative_to(root).parts[0].removesuffix(".py")
        for module in imported(file):
            inside = module.removeprefix(package.replace("/", ".") + ".")
            room = inside.partition(".")[0]
            if inside != module and room in rooms and room != name:
                yield file.relative_to(REPOSITORY).as_posix(), name, room


@pytest.mark.parametrize(
    ("package", "floors"),
    [
        ("bridge_adapter", ADAPTER_FLOORS),
        ("truss_model", MODEL_FLOORS),
        ("truss_model/engine", ENGINE_FLOORS),
    ],
)
def test_a_room_imports_only_what_stands_below_it(package: str, floors: Mapping[str, set[str]]) -> None:
    order = list(floors)
    assert [room for room in order if any(order.index(below) <= order.index(room) for below in floors[room])] == []
    wrong = {f"{file}: {room}" for file, name, room in edges(package) if room not in floors.get(name, ())}
    assert sorted(wrong) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): imported(file)
        for package in ("truss_model", "bridge_adapter")
        for file in python_files(package)
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(graph[module] & graph.keys() - {module}):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_model_shares_the_pure_translation_with_the_adapter_and_nothing_else() -> None:
    assert list(forbidden("truss_model", {"bridge_adapter"}, except_for=("openai_routes.py",))) == []
    assert list(forbidden("bridge_adapter", {"truss_model"})) == []
    imports = imported(REPOSITORY / "truss_model/openai_routes.py")
    rooms = {name.split(".")[1] for name in imports if name.startswith("bridge_adapter.")}
    assert rooms == {"contract", "errors", "openai_api"}
    for room in rooms:
        assert ADAPTER_FLOORS[room] <= rooms, "the image holds these rooms only"


def test_only_model_py_knows_truss() -> None:
    assert list(forbidden("truss_model", SERVER, except_for=("model.py",))) == []


def test_only_execution_and_loading_know_tensors() -> None:
    allowed = ("engine/engine.py", "engine/execution/", "loading/", "built_engine.py", "tokenizer/template.py")
    assert list(forbidden("truss_model", TENSORS, except_for=allowed)) == []
    assert "torch" not in top_level(REPOSITORY / "truss_model/tokenizer/template.py")  # a tokenizer needs no tensor


def test_the_adapter_needs_no_model_packages() -> None:
    heavy = {*TENSORS, "truss", "numpy", "mistral_common", "llguidance"}
    assert list(forbidden("bridge_adapter", heavy)) == []


def test_only_the_upstream_client_talks_http() -> None:
    assert list(forbidden("bridge_adapter", HTTP_CLIENTS, except_for=("upstream/client.py",))) == []


@pytest.mark.parametrize(
    ("folder", "impure"),
    [
        ("bridge_adapter/openai_api", ("answers.py", "responses.py")),  # the time at which an answer was made
        ("truss_model/request", ()),
        ("truss_model/grammar", ()),
        ("truss_model/output", ("completion.py", "stream.py")),
    ],
)
def test_text_and_protocol_are_pure(folder: str, impure: tuple[str, ...]) -> None:
    modules = INPUT_OUTPUT | SERVER | TENSORS | HTTP_CLIENTS | {"logging"}
    assert list(forbidden(folder, modules, except_for=impure)) == []


def test_truss_reads_the_annotations_of_model_py_as_objects() -> None:
    assert "__future__" not in top_level(REPOSITORY / "truss_model/model.py")


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    suffixes = {".py", ".js", ".css", ".html", ".c", ".h", ".cu"}
    files = (path for package in PACKAGES for path in (REPOSITORY / package).rglob("*") if path.suffix in suffixes)
    lengths = {path: len(path.read_text().splitlines()) for path in files if not NOT_OURS & {*path.parts}}
    assert {str(path.relative_to(REPOSITORY)): n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_every_file_is_named_after_a_noun() -> None:
    assert [path for package in PACKAGES for path in python_files(package) if path.stem in MEANINGLESS] == []
