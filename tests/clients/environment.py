"""Virtual environments for clients that cannot be installed beside the newest openai: made once, in .cache/clients."""

import subprocess
import sys
from pathlib import Path

from scripts.serve import REPOSITORY

CLIENTS = Path(__file__).parent


def client_python(name: str) -> Path:
    """The Python of the environment that holds exactly the pins of NAME.txt; made, or made anew, if it does not yet."""
    pins = CLIENTS / f"{name}.txt"
    folder = REPOSITORY / ".cache" / "clients" / name
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = f"# Python {sys.version}\n{pins.read_text()}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-compile", "-r", pins], check=True)
        stamp.write_text(wanted)
    return python
