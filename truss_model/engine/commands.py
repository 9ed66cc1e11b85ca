"""What other threads ask of the engine thread, run there in order between two steps."""

import logging
import queue
from collections.abc import Callable

logger = logging.getLogger(__name__)

Command = Callable[[], None]
IDLE_WAKE = 1.0  # seconds; how late the queue's time limit may be noticed while nothing runs


class CommandQueue:
    """`put` from any thread, `run` on the engine thread only."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def put(self, command: Command) -> None:
        self._commands.put(command)

    def wake(self) -> None:
        """End a wait of `run`."""
        self._commands.put(lambda: None)

    def run(self, *, wait: bool) -> None:
        """Run all that has been put; `wait`: for the first one, up to IDLE_WAKE."""
        while True:
            try:
                command = self._commands.get(block=wait, timeout=IDLE_WAKE if wait else None)
            except queue.Empty:
                return
            wait = False
            command()

    def drain(self) -> None:
        """Run what is left. One that raises keeps none of the others from being run."""
        while not self._commands.empty():
            try:
                self.run(wait=False)
            except Exception:
                logger.exception("What was asked of the engine failed.")
