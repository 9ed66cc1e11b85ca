"""llama.cpp's own server out of the xllamacpp wheel: `python -m benchmarks.llama FILE.gguf PORT ROWS CONTEXT`."""

import os
import sys
import threading

import xllamacpp


def main() -> None:
    file, port, rows, context = sys.argv[1], *map(int, sys.argv[2:5])
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = rows
    params.n_ctx = rows * context
    params.cpuparams.n_threads = os.cpu_count() or 1
    params.cpuparams_batch.n_threads = os.cpu_count() or 1
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
