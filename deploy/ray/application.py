"""The Serve application: `serve run deploy.ray.application:build` in the repository, or serve.yaml on a cluster."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deploy.ray.front import Front
from deploy.ray.prefix_router import PrefixRouter
from deploy.ray.replica import ModelReplica

# Ray tells the front that a call has failed, because its replica or node was lost, by a clock that ticks once a second,
# and waits a second for the reason: what had not begun would begin elsewhere up to two seconds after the first is told.
LOSS_TOLD_AT_ONCE = {"RAY_timeout_ms_task_wait_for_death_info": "100", "RAY_core_worker_internal_heartbeat_ms": "100"}


class Arguments(BaseModel):
    """What `args:` of serve.yaml may hold. Cores and GPUs are a replica's; seconds; requests in flight a replica."""

    model_config = ConfigDict(extra="forbid")

    config_file: str = "config.yaml"
    num_gpus: float = 1
    num_cpus: float = 4
    min_replicas: int = 1
    max_replicas: int = 8
    affinity: bool = True  # a conversation goes to the replica that holds its prefix; else Ray's choice of two
    target_ongoing_requests: float = 48
    max_ongoing_requests: int = 512  # the engine's rows and its queue, so that the engine refuses and not Serve
    fronts: int = 1
    front_resources: dict[str, float] = {}  # custom resources of the nodes that may have a front; none: any node
    drain_seconds: float = 30
    upscale_delay_seconds: float = 10
    downscale_delay_seconds: float = 300
    health_check_seconds: float = 5
    environment: dict[str, str] = {}  # TRUSS_MODEL_* and TRUSS_SECRET_* of the replicas


def build(arguments: Arguments) -> Application:
    """Front and replicas, bound to each other. Serve calls it with `args` of serve.yaml or of the command line."""
    # config.yaml asks for a GPU; a replica that has none says so, or the model refuses to load.
    device = {} if arguments.num_gpus else {"TRUSS_MODEL_DEVICE": "cpu"}
    replicas = serve.deployment(
        name="model",
        ray_actor_options={
            "num_gpus": arguments.num_gpus,
            "num_cpus": arguments.num_cpus,
            "runtime_env": {"env_vars": device | arguments.environment},
        },
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": arguments.target_ongoing_requests,
            "upscale_delay_s": arguments.upscale_delay_seconds,
            "downscale_delay_s": arguments.downscale_delay_seconds,
        },
        max_ongoing_requests=arguments.max_ongoing_requests,
        graceful_shutdown_timeout_s=arguments.drain_seconds,
        health_check_period_s=arguments.health_check_seconds,
        health_check_timeout_s=3 * arguments.health_check_seconds,
        request_router_config=(
            RequestRouterConfig(request_router_class=PrefixRouter) if arguments.affinity else RequestRouterConfig()
        ),
    )(ModelReplica)
    front = serve.deployment(
        name="front",
        num_replicas=arguments.fronts,
        max_ongoing_requests=10_000,
        ray_actor_options={
            "num_cpus": 0 if arguments.front_resources else 0.1,
            "resources": arguments.front_resources,
            "runtime_env": {"env_vars": LOSS_TOLD_AT_ONCE},
        },
        graceful_shutdown_timeout_s=arguments.drain_seconds,
    )(Front)
    bound: Any = replicas.bind(arguments.config_file)
    return front.bind(bound)
