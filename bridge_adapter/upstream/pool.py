"""The servers of one model, and which of them a request goes to. Knows no HTTP.

Servers of the lowest priority number that has one to ask come first; among them a conversation has its own, within a
bound of load (`affinity`), and what has no conversation goes to the least loaded.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from bridge_adapter.settings import FREE, Dialect, Price, Retries, Timeouts
from bridge_adapter.upstream.affinity import BOUND, choose
from bridge_adapter.upstream.health import Health
from bridge_adapter.upstream.retry_budget import RetryBudget


@dataclass(slots=True, eq=False)
class Upstream:
    """One server. `detected`, `in_flight` and `health` change as it is used; everything else is configuration.

    model: what it calls the model; target: its name among the servers of the model, empty if it is the only one.
    """

    name: str
    url: str
    dialect: Dialect
    timeouts: Timeouts
    retries: Retries
    model: str
    authorization: str | None = None
    concurrency: int | None = None
    target: str = ""
    weight: float = 1.0
    priority: int = 0
    detected: Dialect = "auto"
    in_flight: int = 0
    health: Health = field(default_factory=Health)

    @property
    def request_dialect(self) -> Dialect:
        """The dialect to shape a request for: the configured one, or else the one detected last."""
        return self.detected if self.dialect == "auto" else self.dialect

    @property
    def full(self) -> bool:
        return self.concurrency is not None and self.in_flight >= self.concurrency


@dataclass(slots=True, eq=False)
class UpstreamPool:
    """One model's. `fallbacks` are the models that answer when no server of this one can; `bound` is affinity's."""

    name: str
    upstreams: Sequence[Upstream]
    price: Price = FREE
    fallbacks: tuple[str, ...] = ()
    budget: RetryBudget = field(default_factory=RetryBudget)
    bound: float = BOUND

    @property
    def several(self) -> bool:
        """Whether there is a choice of servers."""
        return len(self.upstreams) > 1

    def left(self, tried: Collection[Upstream] = ()) -> list[Upstream]:
        """Those that can still be asked."""
        return [upstream for upstream in self.upstreams if upstream not in tried and not upstream.full]

    def choose(self, key: bytes | None, tried: Collection[Upstream] = ()) -> Upstream | None:
        """The server to ask next, or None when all that are left are full. `key`: the conversation's."""
        if not self.several:
            only = self.upstreams[0]
            return None if only.full or only in tried else only
        left = self.left(tried)
        if len(left) < 2:
            return left[0] if left else None
        available = [upstream for upstream in left if upstream.health.available]
        if not available:  # nobody is known to be well: rather the one that was left alone longest than no answer
            return min(left, key=lambda upstream: (upstream.health.retry_at, upstream.priority))
        first = min(upstream.priority for upstream in available)
        ranked = {upstream.target: upstream for upstream in available if upstream.priority == first}
        # A server whose trial is due is asked for nothing else; whoever asks first tries it.
        due = next((upstream for upstream in ranked.values() if upstream.health.trial_due), None)
        if due is not None:
            return due
        loads = {name: upstream.in_flight for name, upstream in ranked.items()}
        weights = {name: upstream.weight for name, upstream in ranked.items()}
        return ranked[choose(key, loads, weights, bound=self.bound)]

    def states(self) -> Sequence[tuple[str, str, int, bool]]:
        """(model, upstream, requests in flight, whether it is asked) for the metrics; of several upstreams only."""
        if not self.several:
            return ()
        return [(self.name, one.target, one.in_flight, one.health.available) for one in self.upstreams]
