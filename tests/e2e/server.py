"""A server process and where it listens, and what the Truss servers of the tests have in common."""

from dataclasses import dataclass

from scripts.process import ServerProcess

LOAD_SECONDS = 300.0
BASE_ENVIRONMENT = {"TRUSS_MODEL_DTYPE": "float32", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Service:
    process: ServerProcess
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
