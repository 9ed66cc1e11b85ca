"""Ctrl-C, SIGTERM and SIGHUP for programs that start servers: the first one ends the program, later ones are ignored.

An exception out of a signal handler can come between the start of a process and the note that it must be stopped. So
a signal is noted only, and the program ends where it asks, or in a block that allows an exception at any place.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Takes the three signals over when made, which must be in the main thread."""

    def __init__(self, *, anywhere: bool = False) -> None:
        """anywhere: SystemExit as in the block of `anywhere`, in the whole program."""
        self._received = False
        self._anywhere = anywhere
        for number in NUMBERS:
            signal.signal(number, self._handle)

    def check(self) -> None:
        """Raise SystemExit if one of the signals has come."""
        if self._received:
            sys.exit(0)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """In the block SystemExit is raised as soon as a signal comes: for calls that take long."""
        self._anywhere = True
        try:
            self.check()
            yield
        finally:
            self._anywhere = False

    def _handle(self, *_: object) -> None:
        if not self._received:
            self._received = True
            if self._anywhere:
                sys.exit(0)


def exit_on_signals() -> None:
    """SystemExit at any place, once: for programs whose blocks are left in order whenever that comes."""
    Interrupt(anywhere=True)
