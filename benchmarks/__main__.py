"""`make bench`: the short form of the comparisons, some minutes in all. JSON lands in the user's cache."""

import argparse
import subprocess
import sys

PROGRAMS = (("benchmarks.engine", "--quick"), ("benchmarks.adapter", "--quick"))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for module, *arguments in PROGRAMS:
        print(f"-- python -m {module} {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, "-m", module, *arguments], check=True)
    print(
        "-- the long form: drop --quick; and benchmarks.memory, .overhead, .constrained, .sampling, .step_launches, "
        ".page, .gpu",
        flush=True,
    )


if __name__ == "__main__":
    main()
