"""An engine's process without an engine: it is ready at once, and does what the configuration says.

starts: what each start answers, in turn; the last one answers for all later ones. A number is the max_model_len of a
process that is ready, KILLED ends it, and another text is that of a failure of the GPU. answer: the values of the frame
that each request gets, if any.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from truss_model.engine.messages import FrameReader, frame

KILLED = "killed"


def config(folder: Path, *starts: int | str, answer: tuple[Any, ...] | None = None) -> dict[str, Any]:
    """folder: an empty one, in which starts are counted."""
    return {"starts": list(starts), "answer": answer, "folder": str(folder)}


def started(folder: str) -> int:
    """How often before; counts this start."""
    before = len(list(Path(folder).iterdir()))
    tempfile.mkstemp(dir=folder)
    return before


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    frames = FrameReader(connection)
    [(settings, _)] = frames.wait()
    starts = settings["starts"]
    found = starts[min(started(settings["folder"]), len(starts) - 1)]
    if found == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(found, str):
        connection.sendall(frame(("failed", found, False, True)))
        return
    attempts = [("plain torch", "serves", 0.0, f"{found} tokens", 0.1)]
    connection.sendall(frame(("ready", found, settings["folder"], "scripted", attempts)))
    with contextlib.suppress(EOFError, OSError):
        while True:
            for kind, *_ in frames.wait():
                if kind == "submit" and settings["answer"] is not None:
                    connection.sendall(frame(settings["answer"]))


if __name__ == "__main__":
    main()
