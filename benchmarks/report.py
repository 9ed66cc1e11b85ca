"""Tables on the terminal, JSON under benchmarks/results/, what the machine is, a folder to run in. Measures nothing."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from truss_model.engine.execution.cache_folder import cache_folder

RESULTS = Path(__file__).resolve().parent / "results"


class Report:
    """One file of results. Parts are written as they are done; a part that is run again replaces its old figures."""

    def __init__(self, name: str, out: Path = RESULTS) -> None:
        self.path = out / f"{name}.json"
        out.mkdir(parents=True, exist_ok=True)
        self.parts: dict[str, Any] = json.loads(self.path.read_text())["parts"] if self.path.exists() else {}

    def add(self, part: str, result: Mapping[str, Any]) -> None:
        when = {"measured": time.strftime("%Y-%m-%d %H:%M"), "load_average": round(os.getloadavg()[0], 2)}
        self.parts[part] = {**when, "machine": machine(), "command": _command(), **result}
        self.path.write_text(json.dumps({"parts": _tidy(self.parts)}, indent=1) + "\n")


def run_folder() -> Path:
    """Logs, images and installations of what is measured, kept from run to run: in the user's cache.

    It holds copies of the code, which would be found beside the code itself in a folder of the checkout.
    """
    folder = cache_folder() / "bench"
    folder.mkdir(exist_ok=True)
    return folder


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(flush=True)


def say(text: str) -> None:
    print(f"-- {time.strftime('%H:%M:%S')} {text}", flush=True)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    packages = ("torch", "transformers", "truss", "fastapi", "aiohttp", "uvicorn", "xllamacpp")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "instructions": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in _cpu_flags()],
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name))},
    }


def _rounded(value: float) -> float:
    """Four significant digits: more is noise."""
    return float(f"{value:.4g}")


def _command() -> str:
    module = Path(sys.argv[0]).stem
    return " ".join(["python -m", f"benchmarks.{module}" if module != "__main__" else "benchmarks", *sys.argv[1:]])


def _tidy(value: Any) -> Any:
    """Every number rounded."""
    if isinstance(value, Mapping):
        return {key: _tidy(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_tidy(held) for held in value]
    return _rounded(value) if isinstance(value, float) else value


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return "-" if value is None else str(value)


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
