"""What the self-check costs of a start: the demo model's Truss from nothing to ready, with it and without, in turns.

`python -m benchmarks.start [--rounds 5]`
"""

import argparse
import statistics
import time
from contextlib import ExitStack

from benchmarks.report import Report, run_folder, say, table
from benchmarks.targets import READY_SECONDS, REPOSITORY
from scripts.assemble import assemble
from scripts.interrupt import exit_on_signals
from scripts.process import free_port
from scripts.stack import start_truss, wait_truss

WAYS = {"with the self-check": "true", "without": "false"}
VARIABLE = "TRUSS_MODEL_ENGINE_SELF_CHECK"


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    run_dir = run_folder()
    image = assemble(REPOSITORY, run_dir / "image")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way, value in WAYS.items():
            with ExitStack() as exits:
                port, began = free_port(), time.perf_counter()
                environment = {"TRUSS_MODEL_ID": "demo", VARIABLE: value}
                truss = exits.enter_context(start_truss(image, port, run_dir, environment=environment))
                wait_truss(truss, port, READY_SECONDS)
                seconds[way].append(time.perf_counter() - began)
            say(f"round {number + 1} of {options.rounds}, {way}: {seconds[way][-1]:.1f} s")
    rows = [[way, statistics.median(each), min(each), max(each)] for way, each in seconds.items()]
    table("Seconds until the demo model is ready", ("start", "median", "least", "most"), rows)
    medians = [statistics.median(each) for each in seconds.values()]
    say(f"The self-check costs {medians[0] - medians[1]:.2f} s of a start.")
    Report("start").add("start", {**vars(options), "seconds": seconds})


if __name__ == "__main__":
    main()
