"""Where the engine keeps what it makes for this machine: built kernels, faults that the next process must know."""

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAME = "truss-openai-bridge"


def cache_folder(environment: Mapping[str, str] = os.environ, temporary: Path | None = None) -> Path:
    """The user's cache; where that cannot be written (a read-only container), a folder beside the temporary files.

    The latter is the same for every process of this user, and nobody else's: code that was built is loaded from it.
    """
    temporary = temporary or Path(tempfile.gettempdir())
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME
    own = temporary / f"{NAME}-{os.getuid()}"
    for folder in (cache, own):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
            if folder is own and (found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022):
                continue
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix=f"{NAME}-", dir=temporary))
