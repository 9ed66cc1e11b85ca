"""A wall clock that a test can put forward and back while the processes that look at it run."""

import os
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class WallClock:
    """`environment` is for the processes that are to see it; they start with the right time."""

    def __init__(self, folder: Path) -> None:
        library, self._shift = folder / "wall_clock.so", folder / "wall_clock.shift"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        self.put(0)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_SHIFT": str(self._shift)}

    def put(self, seconds: int) -> None:
        """Forward, or back where negative, from the right time. Written in place: the processes have it mapped."""
        with self._shift.open("r+b" if self._shift.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))
