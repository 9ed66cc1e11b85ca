"""The servers that the engine is compared with, and ours: processes of this machine, all of the same weights."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.process_tree import ProcessTree
from scripts.assemble import assemble
from scripts.process import ServerProcess, free_port
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss

REPOSITORY = Path(__file__).resolve().parent.parent
READY_SECONDS = 240.0
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Target:
    """`forced`: knows ignore_eos. `remark`: what is not like with like."""

    name: str
    url: str
    model: str
    forced: bool
    servers: tuple[ServerProcess, ...]
    remark: str = ""

    @property
    def tree(self) -> ProcessTree:
        return ProcessTree([server.pid for server in self.servers])

    def pause(self) -> None:
        """Stop its processes, so that it takes nothing from the one that is measured."""
        for server in self.servers:
            server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        for server in self.servers:
            server.signal(signal.SIGCONT)


Start = Callable[[Path], "Iterator[Target]"]


@contextmanager
def ours(run_dir: Path, name: str = "ours", source: Path = REPOSITORY) -> Iterator[Target]:
    """The real Truss server as the image would run it, and the adapter in front; of the work tree `source`."""
    run_dir = run_dir / f"stack-{name}"
    run_dir.mkdir(exist_ok=True)
    image = assemble(source, run_dir / "image")
    truss_port, port = free_port(), free_port()
    with start_truss(image, truss_port, run_dir, environment={"TRUSS_MODEL_ID": "demo"}) as truss:
        wait_truss(truss, truss_port, READY_SECONDS)
        settings = {"models": {"demo": {"url": truss_url(truss_port)}}, "observe": {"access_log": "off"}}
        with start_adapter(settings, port, run_dir, environment={"PYTHONPATH": str(source)}) as adapter:
            wait_adapter(adapter, port)
            yield Target(name, f"http://127.0.0.1:{port}", "demo", True, (truss, adapter))


@contextmanager
def transformers_serve(run_dir: Path, weights: Path, dtype: Dtype) -> Iterator[Target]:
    """`transformers serve` with continuous batching; pages for 16,384 tokens, 1,024 tokens a step."""
    port = free_port()
    sizes = ["--cb-block-size", "256", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "1024"]
    command: list[str | Path] = [Path(sys.executable).parent / "transformers", "serve", weights, "--device", "cpu"]
    command += ["--dtype", dtype, "--continuous-batching", *sizes, "--host", "127.0.0.1", "--port", str(port)]
    name = f"serve {dtype}"
    with _started(name, command, run_dir, {"HF_HUB_OFFLINE": "1"}) as server:
        server.wait_ready(f"http://127.0.0.1:{port}/health", READY_SECONDS)
        yield Target(name, f"http://127.0.0.1:{port}", str(weights), False, (server,))


@contextmanager
def naive_threads(run_dir: Path, weights: Path, dtype: Dtype) -> Iterator[Target]:
    port = free_port()
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.naive", weights, str(port), dtype]
    with _started("naive", command, run_dir) as server:
        server.wait_ready(f"http://127.0.0.1:{port}/", READY_SECONDS)
        yield Target("naive", f"http://127.0.0.1:{port}", "demo", True, (server,), "thread per request, generate()")


@contextmanager
def llama_cpp(run_dir: Path, file: Path, rows: int, context: int) -> Iterator[Target]:
    """`context`: tokens a row may hold."""
    port = free_port()
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.llama", file, str(port), str(rows), str(context)]
    with _started("llama.cpp", command, run_dir) as server:
        server.wait_ready(f"http://127.0.0.1:{port}/health", READY_SECONDS)
        yield Target("llama.cpp Q4_1", f"http://127.0.0.1:{port}", "demo", True, (server,), "4-bit weights")


@contextmanager
def _started(
    name: str, command: list[str | Path], run_dir: Path, environment: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    log = run_dir / f"{name.replace(' ', '-')}.log"
    log.unlink(missing_ok=True)
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPOSITORY), **(environment or {})}
    with ServerProcess(name, command, cwd=run_dir, environment=variables, log=log) as server:
        yield server
