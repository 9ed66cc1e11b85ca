"""A Ray cluster of three raylets on this machine, the model on two of them, and one way to ask it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import orjson
import ray
from ray import serve
from ray.cluster_utils import Cluster

from deploy.ray.application import Arguments, build
from scripts.process import free_port

OBJECT_STORE = 100 << 20
NODE = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
FRONT = {"front": 1.0}
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The running application. `nodes` beside the head; Serve places one replica on each, as each has one core."""

    cluster: Cluster
    nodes: list[Any]
    folder: Path
    url: str

    def body(self, text: str, **fields: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **fields}

    def replicas(self) -> dict[str, int]:
        """Actor name -> process id of the model's replicas that live."""
        actors = ray._private.state.actors().values()
        return {
            actor["Name"]: actor["Pid"]
            for actor in actors
            if actor["State"] == "ALIVE" and f"#{MODEL}#" in (actor["Name"] or "")
        }

    def running(self) -> int:
        status = serve.status().applications["default"].deployments[MODEL]
        return int(status.replica_states.get("RUNNING", 0))


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The head has Serve's controller, proxy and front and, without a core of its own, no replica."""
    head = {"num_cpus": 0, "resources": FRONT, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    # Ray's workers have a niceness of 15, with which a machine that does anything else leaves them hardly any time.
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": {"worker_niceness": 0}})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def running_fleet(folder: Path, environment: Mapping[str, str] | None = None, **arguments: Any) -> Iterator[Fleet]:
    """The model of `folder` on two nodes, ready; what `deploy` takes."""
    with running_cluster() as cluster:
        nodes = [cluster.add_node(**NODE) for _ in range(2)]
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
        deploy(folder, environment, **arguments)
        yield Fleet(cluster, nodes, folder, f"http://127.0.0.1:{port}")


def deploy(folder: Path, environment: Mapping[str, str] | None = None, **arguments: Any) -> None:
    """Serve the model of `folder` with two replicas, or change what is served already. environment: of the replicas."""
    variables = {
        "TRUSS_MODEL_PATH": str(folder),
        "TRUSS_MODEL_DTYPE": "float32",
        "TRUSS_MODEL_ENGINE_KV_CACHE_BYTES": str(200 << 20),
        "HF_HUB_OFFLINE": "1",
        **(environment or {}),
    }
    given = {"num_gpus": 0, "num_cpus": 1, "min_replicas": 2, "max_replicas": 2, "front_resources": FRONT, **arguments}
    serve.run(build(Arguments(environment=variables, health_check_seconds=1, **given)), name="default")


def until(what: Callable[[], bool], seconds: float = 180.0) -> None:
    """Wait for something that Ray does in its own time; fail when it does not."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in response.iter_lines() if line.strip()]
