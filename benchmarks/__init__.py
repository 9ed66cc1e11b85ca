"""Where the README's figures come from. Each program prints a table and writes JSON to benchmarks/results/."""
