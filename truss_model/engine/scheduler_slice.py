"""The scheduler's time slice of the calling thread: a short one has it run soon after each time it wakes up."""

import ctypes
import os
import platform
import sys

SHORTEST = 100_000  # nanoseconds; the kernel takes nothing shorter
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # numbers of sched_setattr and sched_getattr: libc has none
_FAIR_POLICIES = (os.SCHED_OTHER, os.SCHED_BATCH) if sys.platform == "linux" else ()


class _SchedulerAttributes(ctypes.Structure):
    """struct sched_attr of sched_setattr(2), its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def shorten_slice(nanoseconds: int = SHORTEST) -> int | None:
    """The slice that the calling thread has now, nanoseconds; None, and nothing has changed, where it cannot be set.

    A thread's share of the CPU stays the same; it gets it in shorter turns and earlier: the scheduler runs whoever's
    turn would end first (Documentation/scheduler/sched-eevdf.rst). Needs no privilege, but Linux 6.12 (commit
    857b158dc5e8: sched_runtime of a SCHED_OTHER thread is its slice); older kernels ignore the value, other systems
    and some sandboxes have no such call. Threads that the thread starts inherit the slice.
    """
    if sys.platform != "linux" or platform.machine() not in _CALLS or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    set_attributes, get_attributes = _CALLS[platform.machine()]
    system_call = ctypes.CDLL(None).syscall
    found = _SchedulerAttributes()
    size = ctypes.sizeof(found)
    if system_call(get_attributes, 0, ctypes.byref(found), size, 0) or found.policy not in _FAIR_POLICIES:
        return None
    found.runtime = nanoseconds
    if system_call(set_attributes, 0, ctypes.byref(found), 0):
        return None
    system_call(get_attributes, 0, ctypes.byref(found), size, 0)
    return found.runtime or None
