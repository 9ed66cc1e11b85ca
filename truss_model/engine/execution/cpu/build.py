"""Builds kernels.c for this very machine, once, into a cache folder. Knows the C signatures and nothing of models."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.c")
PARTS = sorted(path for path in SOURCE.parent.iterdir() if path.suffix in (".c", ".h"))
COMPILE = ("-c", "-O3", "-march=native", "-ffast-math", "-fPIC")
# Linked apart: with -ffast-math the linker adds code that makes the whole process flush denormal numbers to zero.
LINK = ("-shared", "-pthread")

_pointer, _long, _float, _int = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
SIGNATURES: dict[str, tuple[object, ...]] = {
    "pool_start": (_int,),
    "linear": (_pointer, _pointer, _pointer, _long, _long, _long, _int),
    "rms_norm": (_pointer, _pointer, _pointer, _long, _long, _float),
    "silu_mul": (_pointer, _pointer, _long, _long),
    "rope_append": (_pointer,) * 6 + (_long,) * 4,
    "paged_attention": (_pointer,) * 7 + (_long,) * 5 + (_float, _long),
}


def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where TRUSS_MODEL_CPU_KERNELS is 0, no C compiler is there, or the build fails."""
    return None if os.environ.get("TRUSS_MODEL_CPU_KERNELS") == "0" else _load()


@functools.cache
def _load() -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.warning("No C compiler found: the CPU path falls back to torch operators, which are about half as fast.")
        return None
    try:
        library = ctypes.CDLL(str(_build(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        logger.warning("Building the CPU kernels failed, torch operators are used instead: %s", detail[-2000:])
        return None
    for name, arguments in SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    library.pool_start(_threads())
    return library


def _threads() -> int:
    """OMP_NUM_THREADS, as for torch's own operators; else the cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))


def _build(compiler: str) -> Path:
    source = b"".join(path.read_bytes() for path in PARTS)
    machine = f"{platform.machine()} {_cpu_flags()} {compiler} {COMPILE} {LINK}"
    name = hashlib.sha256(source + machine.encode()).hexdigest()[:16]
    target = _cache_folder() / f"kernels-{name}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            compiled, linked = Path(scratch) / "kernels.o", Path(scratch) / target.name
            for command in (
                [compiler, *COMPILE, "-o", str(compiled), str(SOURCE)],
                [compiler, *LINK, "-o", str(linked), str(compiled), "-lm"],
            ):
                subprocess.run(command, check=True, capture_output=True, text=True)
            linked.replace(target)
    return target


def _cache_folder() -> Path:
    """The user's cache; a fresh temporary folder where that cannot be written (a read-only container)."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truss-openai-bridge"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="truss-openai-bridge-"))


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
