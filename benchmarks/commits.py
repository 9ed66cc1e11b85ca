"""A commit to measure beside the work tree, as a work tree of its own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import run_folder
from benchmarks.targets import REPOSITORY


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The folder exists as long as the block runs."""
    folder = run_folder() / "before"
    subprocess.run(["git", "worktree", "add", "--force", "--detach", folder, revision], cwd=REPOSITORY, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=REPOSITORY, check=True)
