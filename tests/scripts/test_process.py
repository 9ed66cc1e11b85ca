"""A server as a child process: its log, its lines, its end."""

import sys
from pathlib import Path

import pytest

from scripts.process import ServerFailed, ServerProcess, free_port


def ended(program: str, log: Path, lines: list[str] | None = None) -> ServerProcess:
    echo = None if lines is None else lines.append
    process = ServerProcess(
        "child", [sys.executable, "-c", program], cwd=log.parent, environment={}, log=log, echo=echo
    )
    process.wait(60)
    process.stop()
    return process


def test_the_log_is_of_this_start_only(tmp_path: Path) -> None:
    ended("print('first')", tmp_path / "log")
    assert ended("print('second')", tmp_path / "log").last_lines() == "second"


def test_a_growing_line_is_told_while_it_grows(tmp_path: Path) -> None:
    lines: list[str] = []
    ended("print('1 %', end='\\r'); print('2 %', end='\\r\\n'); print('end', end='')", tmp_path / "log", lines)
    assert lines == ["1 %", "2 %", "end"]


def test_a_server_that_ends_says_how(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerFailed, match=r"child ended with exit code 3\.\ngone"):
        ended("print('gone'); raise SystemExit(3)", tmp_path / "log").wait_ready(url, 60)
    killed = ended("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "log")
    assert killed.end() == "child was killed (signal 9), most often by the system because memory ran out."


def test_a_log_that_cannot_be_written_does_not_stop_the_server(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    lines: list[str] = []
    process = ended("for number in range(100_000): print(number)", tmp_path / "log", lines)
    assert (process.exit_code, lines[-1]) == (0, "99999")
