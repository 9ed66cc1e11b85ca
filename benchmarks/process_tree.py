"""What some processes and all their children use: CPU time, resident memory and its peak. Changes nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

MB = 1 << 20


class ProcessTree:
    """Grows with the children that are started later; what has ended counts with its parent's waited-for children."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]

    def cpu_seconds(self) -> float:
        total = 0.0
        for process in self._all():
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss_mb(self) -> float:
        return sum(float(process.memory_info().rss) for process in self._all()) / MB

    def peak_rss_mb(self) -> float:
        """Highest resident size since the start, summed over the processes."""
        return sum(_high_water(process.pid) for process in self._all()) / 1024

    def _all(self) -> Iterator[psutil.Process]:
        for root in self._roots:
            for process in (root, *root.children(recursive=True)):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process


def _high_water(pid: int) -> int:
    """Kilobytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
