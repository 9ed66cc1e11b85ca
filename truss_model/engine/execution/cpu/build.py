"""Builds the C kernels for this very machine, once, into a cache folder. Knows their signatures, nothing of models."""

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

from truss_model.engine.execution.cache_folder import cache_folder

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
PARTS = sorted(path for path in FOLDER.iterdir() if path.suffix in (".c", ".h"))
COMPILE = ("-c", "-O3", "-march=native", "-fPIC")
SOURCES = {
    "decoder.c": (),
    "kernels.c": ("-ffast-math",),
    "sampling.c": ("-fno-math-errno", "-fno-trapping-math"),
}
# Linked apart: with -ffast-math the linker adds code that makes the whole process flush denormal numbers to zero.
LINK = ("-shared", "-pthread", "-Wl,-Bsymbolic")  # its own functions, whatever else is loaded under their names

_pointer, _long, _float, _int = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
SIGNATURES: dict[str, tuple[object, ...]] = {
    "kernels_start": (_int,),
    "bfloat16_products": (),
    "linear": (_pointer, _pointer, _pointer, _long, _long, _long, _int),
    "gated_rows": (_pointer, _int, _pointer, _pointer, _long, _long, _long, _int),
    "rms_norm": (_pointer,) * 4 + (_long, _long, _float, _int),
    "rope_append": (_pointer,) * 6 + (_long,) * 4,
    "paged_attention": (_pointer,) * 7 + (_long,) * 5 + (_float, _long, _float, _pointer, _int),
    "decode": (_pointer,) * 4,
    "sample": (_pointer,) * 17 + (_long,) * 5,
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
    library.kernels_start(_threads())
    return library


def _threads() -> int:
    """OMP_NUM_THREADS, as for torch's own operators; else the cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))


def _build(compiler: str) -> Path:
    source = b"".join(path.read_bytes() for path in PARTS)
    machine = f"{platform.machine()} {_cpu_flags()} {compiler} {COMPILE} {SOURCES} {LINK}"
    name = hashlib.sha256(source + machine.encode()).hexdigest()[:16]
    target = cache_folder() / f"kernels-{name}.so"
    if not target.exists():
        logger.info("Compiling the CPU kernels for this machine, once.")
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            linked = Path(scratch) / target.name
            objects = [str(Path(scratch) / f"{name}.o") for name in SOURCES]
            commands = [
                [compiler, *COMPILE, *flags, "-o", compiled, str(FOLDER / name)]
                for compiled, (name, flags) in zip(objects, SOURCES.items(), strict=True)
            ]
            for command in [*commands, [compiler, *LINK, "-o", str(linked), *objects, "-lm"]]:
                subprocess.run(command, check=True, capture_output=True, text=True)
            linked.replace(target)
    return target


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
