"""The short slice of a thread: set where the kernel can, refused without harm. Each test has a thread of its own."""

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from tests.engine.conftest import make_model
from truss_model.engine.engine import Engine
from truss_model.engine.scheduler_slice import SHORTEST, shorten_slice
from truss_model.engine.settings import EngineSettings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="numbers of system calls of Linux on x86-64"
)
SET_ATTRIBUTES, GET_ATTRIBUTES, PRCTL = 314, 315, 157
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # of prctl
EPERM = 1
T = TypeVar("T")


def slice_of(thread: int) -> int:
    """Nanoseconds; 0 where the kernel has no slices that can be set."""
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(GET_ATTRIBUTES, thread, attributes, 48, 0) == 0
    return int(struct.unpack_from("=Q", attributes, 24)[0])


def on_a_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result()


def refuse_setting() -> None:
    """From now on the kernel refuses this thread's sched_setattr, as a sandbox would."""
    load, equal, give = 0x20, 0x15, 0x06  # of a 32-bit word, jump, return
    allowed, refused = 0x7FFF0000, 0x00050000 | EPERM
    code = ((load, 0, 0, 0), (equal, 0, 1, SET_ATTRIBUTES), (give, 0, 0, refused), (give, 0, 0, allowed))
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(filters)))
    prctl = ctypes.CDLL(None).prctl
    zero = ctypes.c_ulong(0)
    if prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero, zero, zero) or prctl(SECCOMP, FILTER, program, zero, zero):
        pytest.skip("a thread may not restrict itself here")


def test_a_thread_gets_the_short_slice_and_the_others_keep_theirs() -> None:
    before = slice_of(0)
    if not before:
        pytest.skip("this kernel has no slices that can be set")
    told, found = on_a_thread(lambda: (shorten_slice(), slice_of(0)))
    assert told == found == SHORTEST
    assert slice_of(0) == before


def test_a_refusal_changes_nothing_and_is_told() -> None:
    def restricted() -> tuple[int, int | None, int]:
        refuse_setting()
        return slice_of(0), shorten_slice(), slice_of(0)

    before, told, after = on_a_thread(restricted)
    assert told is None
    assert before == after


def test_a_thread_of_another_policy_keeps_it() -> None:
    def idle() -> tuple[int | None, int]:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        return shorten_slice(), os.sched_getscheduler(0)

    assert on_a_thread(idle) == (None, os.SCHED_IDLE)


def test_the_engine_thread_has_a_short_slice() -> None:
    if on_a_thread(shorten_slice) is None:
        pytest.skip("this kernel has no slices that can be set")
    engine = Engine(make_model(), EngineSettings(kv_cache_bytes=1_000_000), eos_token_ids=frozenset({2}))
    before = set(threading.enumerate())
    engine.start()
    try:
        [thread] = set(threading.enumerate()) - before
        assert slice_of(thread.native_id or 0) == SHORTEST
    finally:
        engine.stop()
