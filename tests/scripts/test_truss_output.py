"""What people see of the Truss server's output while it starts."""

import json

import pytest

from scripts.truss_output import TrussOutput


class Shown:
    """An output with a clock of its own, and the lines that it tells."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.output = TrussOutput(self.lines.append, lambda: self.now)

    def log(self, message: str, level: str = "INFO", **more: str) -> None:
        self.output(json.dumps({"asctime": "now", "levelname": level, "message": message, **more}))


@pytest.fixture
def shown() -> Shown:
    return Shown()


def test_messages_are_told_without_what_surrounds_them(shown: Shown) -> None:
    shown.log("Loaded in 2.0 s.")
    shown.output("a line of a library\n")
    shown.log("Application startup complete.")
    shown.log("Failed to load model. Retrying...", "WARNING")
    shown.output("")
    assert shown.lines == ["Loaded in 2.0 s.", "a line of a library"]


def test_a_slow_step_says_what_is_being_done_and_how_far_it_is(shown: Shown) -> None:
    shown.log("Loading 14.5 GB of weights.")
    shown.now = 9.0
    shown.output.waiting()
    shown.output("Loading weights:   3%|#         | 9/291 [00:08<04:10, 1.1it/s]")
    shown.now = 10.0
    shown.output.waiting()
    shown.output.waiting()
    shown.now = 20.0
    shown.output.waiting()
    assert shown.lines == [
        "Loading 14.5 GB of weights.",
        "Loading weights: 3 % (10 s so far)",
        "Loading weights: 3 % (20 s so far)",
    ]


def test_what_the_model_says_is_the_cause(shown: Shown) -> None:
    shown.log("Port in use?", "ERROR")
    shown.log("The model cannot be loaded. No config.json in /weights.", "ERROR")
    shown.log("Exception while loading model", "ERROR", exc_info="Traceback:\n  ...\nLoadError: x")
    assert (shown.output.refused, shown.output.error) == (True, "No config.json in /weights.")
    assert shown.lines == []


def test_of_an_unexpected_exception_the_last_line_is_the_cause(shown: Shown) -> None:
    shown.log("Exception while loading model", "ERROR", exc_info="Traceback:\n  ...\nImportError: No 'x'")
    assert (shown.output.refused, shown.output.error) == (
        False,
        "Exception while loading model: ImportError: No 'x'",
    )


def test_of_a_bare_traceback_the_exception_is_the_cause(shown: Shown) -> None:
    for line in (
        "Traceback (most recent call last):",
        '  File "main.py", line 3',
        "    import loguru",
        "ImportError: l",
    ):
        shown.output(line)
    shown.output("afterwards")
    assert shown.output.error == "ImportError: l"
    assert shown.lines == ["afterwards"]


def test_without_any_error_the_last_lines_are_kept(shown: Shown) -> None:
    for number in range(7):
        shown.output(f"line {number}")
    assert shown.output.error is None
    assert shown.output.last_lines == tuple(f"line {number}" for number in range(2, 7))
