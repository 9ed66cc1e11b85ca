"""Virtual environments for clients that cannot be installed beside the newest openai: made once, in .cache/clients."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from scripts.serve import REPOSITORY

CLIENTS = Path(__file__).parent


def client_python(name: str, *, beside_ours: bool = False) -> Path:
    """The Python of the environment that holds exactly the pins of NAME.txt; made, or made anew, if it does not yet.

    `beside_ours`: what it does not hold comes out of this environment, which spares a second torch.
    """
    pins = CLIENTS / f"{name}.txt"
    folder = REPOSITORY / ".cache" / "clients" / name
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = f"# Python {sys.version}\n{pins.read_text()}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-compile", "-r", pins], check=True)
        if beside_ours:
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        stamp.write_text(wanted)
    return python
