"""The Truss server and the adapter in front of it, as processes on this machine. Knows no model and prints nothing."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scripts.process import ServerProcess

if TYPE_CHECKING:
    from scripts.assemble import Image  # takes seconds to import

Echo = Callable[[str], None]


def truss_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1/models/model:predict"


def start_truss(
    image: "Image",
    port: int,
    run_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    python: Path = Path(sys.executable),
    echo: Echo | None = None,
) -> ServerProcess:
    """Start the Truss server as the image's entry point does. Ready when `GET /v1/models/model` answers 200.

    HOME is the folder where it notes a crash, so the run's own one; what lives in the real home is named explicitly.
    """
    home = Path.home()
    variables = {
        "HF_HOME": str(home / ".cache/huggingface"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        **os.environ,
        **image.config["environment_variables"],
        **(environment or {}),
        "HOME": str(run_dir),
        "INFERENCE_SERVER_PORT": str(port),
        "PYTHONPATH": str(image.root / "packages"),
        "PYTHONUNBUFFERED": "1",
    }
    log = run_dir / "truss.log"
    return ServerProcess("truss", [python, "main.py"], cwd=image.app, environment=variables, log=log, echo=echo)


def wait_truss(truss: ServerProcess, port: int, timeout: float, waiting: Callable[[], None] = lambda: None) -> None:
    """Return when the model is loaded and warm."""
    truss.wait_ready(f"http://127.0.0.1:{port}/v1/models/model", timeout, waiting)


def start_adapter(
    settings: Mapping[str, Any],
    port: int,
    run_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    echo: Echo | None = None,
) -> ServerProcess:
    """Start the adapter with a settings file made from `settings`. `wait_adapter` tells when it serves."""
    file = run_dir / "adapter.yaml"
    file.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    variables = {**os.environ, **(environment or {}), "BRIDGE_SERVER_PORT": str(port), "PYTHONUNBUFFERED": "1"}
    command: Sequence[str | Path] = [sys.executable, "-m", "bridge_adapter.cli", "serve", "--config", file]
    return ServerProcess("adapter", command, cwd=run_dir, environment=variables, log=run_dir / "adapter.log", echo=echo)


def wait_adapter(
    adapter: ServerProcess, port: int, timeout: float = 30.0, waiting: Callable[[], None] = lambda: None
) -> None:
    """Return when it serves; whether its models do is what `/health/ready` tells."""
    adapter.wait_ready(f"http://127.0.0.1:{port}/health/live", timeout, waiting)
