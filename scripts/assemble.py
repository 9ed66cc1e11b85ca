"""What Truss would put into the image, as a folder: its own image builder and emulator of Dockerfiles, without Docker.

Knows nothing of models; `requirements` are not installed, the interpreter that serves the folder must have them.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from truss.contexts.image_builder.serving_image_builder import ServingImageBuilderContext
from truss.contexts.local_loader.docker_build_emulator import DockerBuildEmulator
from truss.util.path import copy_tree_path, load_trussignore_patterns_from_truss_dir


@dataclass(frozen=True, slots=True)
class Image:
    """A container's file system below `root`, its working directory `app` and the config.yaml in it."""

    root: Path
    app: Path
    config: dict[str, Any]

    @property
    def requirements(self) -> Path:
        """The server's and config.yaml's packages, as the image would install them."""
        return self.root / "requirements.txt"


def assemble(truss_dir: Path, out: Path) -> Image:
    """Build the Truss in `truss_dir` into `out`, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    upload, context, root = (out.resolve() / name for name in ("upload", "context", "root"))
    context.mkdir(parents=True)
    root.mkdir()
    # As `truss push`: only what .truss_ignore lets through reaches the builder.
    copy_tree_path(truss_dir, upload, ignore_patterns=load_trussignore_patterns_from_truss_dir(truss_dir))
    ServingImageBuilderContext.run(upload).prepare_image_build_dir(context)
    # The emulator carries out COPY, ENV and WORKDIR, and skips RUN: of those only build_commands are the Truss's own.
    DockerBuildEmulator(context / "Dockerfile", context).run(root)
    app = root / "app"
    config = yaml.safe_load((app / "config.yaml").read_text())
    for command in config["build_commands"]:
        subprocess.run(command, shell=True, cwd=app, check=True)
    return Image(root, app, config)
