"""A server process and where it listens, and what the Truss servers of the tests have in common."""

import os
from dataclasses import dataclass

from scripts.process import ServerProcess

LOAD_SECONDS = 300.0
FUZZ_TIMES = int(os.environ.get("FUZZ_TIMES", "1"))  # so many times the examples of a common run
BASE_ENVIRONMENT = {
    "TRUSS_MODEL_DEVICE": "cpu", "TRUSS_MODEL_DTYPE": "float32", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Service:
    process: ServerProcess
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
