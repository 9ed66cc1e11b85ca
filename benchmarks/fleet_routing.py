"""How a request finds its replica: the adapter's own choice, over one pool or over cells, and two simpler rules.

A fleet of more than CELL replicas is cells of CELL: adapters in front choose the cell and the cell's adapters the
replica, both by the same code and the same key. A choice looks at every upstream of its pool: cells keep it cheap.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

from bridge_adapter.settings import Retries, Timeouts
from bridge_adapter.upstream.affinity import BOUND
from bridge_adapter.upstream.health import Health
from bridge_adapter.upstream.pool import Upstream, UpstreamPool

CELL = 32
Clock = Callable[[], float]
Rule = Literal["affinity", "least busy", "round robin"]
RULES: tuple[Rule, ...] = ("affinity", "least busy", "round robin")


class Place:
    """A replica as its fleet's adapters see it."""

    def __init__(self, index: int, cell: Upstream, upstream: Upstream) -> None:
        self.index = index
        self._cell = cell
        self.upstream = upstream

    def sent(self) -> None:
        self._cell.in_flight += 1
        self.upstream.in_flight += 1
        self.upstream.health.sent()

    def ended(self, *, fault: bool) -> None:
        self._cell.in_flight -= 1
        self.upstream.in_flight -= 1
        if fault:
            self.upstream.health.failed()
        else:
            self.upstream.health.succeeded()


class Fleet:
    """Replicas by number, behind one rule."""

    def __init__(self, replicas: int, rule: Rule, clock: Clock, *, cell: int = CELL, bound: float = BOUND) -> None:
        """cell: replicas of a pool; bound: of their load over the average."""
        self._rule = rule
        numbers = [range(first, min(first + cell, replicas)) for first in range(0, replicas, cell)]
        cells = [_upstream(f"cell-{index}", clock, len(members)) for index, members in enumerate(numbers)]
        self._front = UpstreamPool("front", cells, bound=bound)
        self.places: list[Place] = []
        self._cells: dict[str, tuple[UpstreamPool, dict[str, Place]]] = {}
        for upstream, members in zip(cells, numbers, strict=True):
            places = [Place(index, upstream, _upstream(f"replica-{index}", clock)) for index in members]
            by_name = {place.upstream.target: place for place in places}
            pool = UpstreamPool(upstream.target, [place.upstream for place in places], bound=bound)
            self._cells[upstream.target] = pool, by_name
            self.places += places
        self._turn = 0

    def choose(self, key: bytes | None, tried: Collection[Place]) -> Place:
        """The replica to ask next."""
        if self._rule == "round robin":
            return self._next(tried)
        if self._rule == "least busy":
            key = None
        cell = self._front.choose(key)
        assert cell is not None, "no cell is ever full"
        pool, places = self._cells[cell.target]
        upstream = pool.choose(key, [place.upstream for place in tried])
        assert upstream is not None, "a cell has more replicas than are lost"
        return places[upstream.target]

    def _next(self, tried: Collection[Place]) -> Place:
        for _ in self.places:
            place = self.places[self._turn % len(self.places)]
            self._turn += 1
            if place.upstream.health.available and place not in tried:
                break
        return place

    @property
    def loads(self) -> Sequence[int]:
        """Requests in flight of each replica."""
        return [place.upstream.in_flight for place in self.places]


def _upstream(name: str, clock: Clock, weight: float = 1.0) -> Upstream:
    return Upstream(
        name=name,
        url="",
        dialect="predict",
        timeouts=Timeouts(),
        retries=Retries(),
        model="simulated",
        target=name,
        weight=weight,
        health=Health(clock=clock),
    )
