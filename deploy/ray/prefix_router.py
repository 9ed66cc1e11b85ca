"""Ray Serve's request router for the model: a conversation goes to the replica that holds its prefix, within a bound.

Every router (one in each process that has a handle) ranks the replicas of a conversation by the same hash, so they
agree without sharing state. Knows the predict call's first argument, the body, and nothing else of the model.
"""

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from bridge_adapter.upstream.affinity import choose, conversation_key


class PrefixRouter(RequestRouter):
    """Ranks replicas for `handle.remote(call)`, where `call.body` is the parsed request. Counts what it sends itself.

    The queue lengths of Serve's cache are those that replicas reported last; what this router has sent since counts
    too, because Serve's cache adds it. A request without a key (nothing to share) goes to the shortest queue.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The groups to try in turn: the conversation's own replica, then everyone; Serve takes the shortest queue."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # after these groups Serve waits before it asks again
        key = None if pending_request is None else conversation_key(_body(pending_request))
        if key is None or not candidate_replicas:
            return [candidate_replicas]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: self._load(replica) for name, replica in replicas.items()}
        home = replicas[choose(key, loads, dict.fromkeys(replicas, 1.0))]
        return [[home], [replica for replica in candidate_replicas if replica is not home]]

    def _load(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _body(request: PendingRequest) -> dict[str, Any]:
    call = request.args[0] if request.args else None
    body = getattr(call, "body", None)
    return body if isinstance(body, dict) else {}
