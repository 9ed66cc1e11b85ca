"""The first signal ends a program where it asks, or anywhere in the blocks that allow it; later ones change nothing."""

import subprocess
import sys

import pytest

from scripts.serve import REPOSITORY

PROGRAM = """
import os, signal
from scripts.interrupt import Interrupt, exit_on_signals
interrupt = Interrupt()
def told(number):
    os.kill(os.getpid(), number)
try:
    {body}
except SystemExit as end:
    told(signal.SIGINT)
    print("left in order", end.code)
"""


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        ("told(signal.SIGINT); print('noted'); interrupt.check()", "noted\nleft in order 0\n"),
        ("interrupt.check(); print('goes on')", "goes on\n"),
        ("with interrupt.anywhere(): told(signal.SIGTERM); print('not reached')", "left in order 0\n"),
        ("told(signal.SIGHUP)\n    with interrupt.anywhere(): print('not reached')", "left in order 0\n"),
        ("with interrupt.anywhere(): pass\n    told(signal.SIGINT); print('noted')", "noted\n"),
        ("exit_on_signals(); told(signal.SIGTERM); print('not reached')", "left in order 0\n"),
    ],
)
def test_a_signal(body: str, printed: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == (printed, 0), done.stderr
