"""Chats on a fleet in virtual time: every request is routed by `fleet_routing` and served by a `replica_model`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heapify, heappop, heappush

from benchmarks.chat_traffic import SYSTEM, Chat
from benchmarks.fleet_routing import Fleet, Place, Rule
from benchmarks.replica_model import Replica, ReplicaSpeed
from bridge_adapter.upstream.affinity import BOUND

SAMPLE_EVERY = 1.0  # seconds between two looks at how even the load is
LEAST_NEW = 1  # tokens of a prompt that are computed in any case


class Kind(IntEnum):
    """Of an event, in the order in which events of one moment are handled."""

    LOST = 0
    BACK = 1
    ENDED = 2
    FIRST_TOKEN = 3
    ASKED = 4
    SAMPLE = 5


@dataclass(slots=True)
class Request:
    """One turn. `place` is where it is served, None before; `hit`: prompt tokens found in the cache there."""

    chat: int
    turn: int
    history: int
    asked: float
    place: Place | None = None
    attempt: int = 0
    hit: int = 0
    tried: list[Place] = field(default_factory=list)
    began: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """One replica is gone at this time, and back with an empty cache `away` seconds later."""

    replica: int
    at: float
    away: float


@dataclass(slots=True)
class Outcome:
    """Of the requests asked from `since` on. prompt, possible, hits in tokens; asked, ttft in seconds, of each request.

    possible: what one cache for all, which forgets nothing, would hit. cut: streams that broke off; retried: requests
    asked again. uneven: most requests in flight at a replica over the average, once a second.
    """

    since: float
    prompt: int = 0
    possible: int = 0
    hits: int = 0
    asked: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    cut: int = 0
    retried: int = 0
    uneven: list[float] = field(default_factory=list)


class Simulation:
    """One run. The replica numbers, the chats and the losses decide everything: there is no chance in it."""

    def __init__(
        self,
        replicas: int,
        rule: Rule,
        chats: Sequence[Chat],
        speed: ReplicaSpeed,
        losses: Iterable[Loss] = (),
        since: float = 0.0,
        until: float = math.inf,
        bound: float = BOUND,
    ) -> None:
        """since, until: the seconds of which the outcome tells; bound: affinity's."""
        self.now = 0.0
        self.outcome = Outcome(since)
        self._until = until
        self._chats = chats
        self._replicas = [Replica(speed) for _ in range(replicas)]
        self._fleet = Fleet(replicas, rule, lambda: self.now, bound=bound)
        self._lost: set[int] = set()
        self._versions = [0] * replicas  # counted up when the next end of a row may have changed
        self._requests: dict[int, Request] = {}
        self._numbers = 0
        self._events: list[tuple[float, int, int, int]] = []  # time, kind, number, version
        for number, chat in enumerate(chats):
            self._requests[number] = Request(number, 0, 0, chat.began)
            self._events.append((chat.began, Kind.ASKED, number, 0))
        self._numbers = len(chats)
        for loss in losses:
            self._events.append((loss.at, Kind.LOST, loss.replica, 0))
            self._events.append((loss.at + loss.away, Kind.BACK, loss.replica, 0))
        self._events.append((since, Kind.SAMPLE, 0, 0))
        heapify(self._events)

    def run(self) -> Outcome:
        while self._events:
            self.now, kind, number, version = heappop(self._events)
            match kind:
                case Kind.ASKED:
                    self._ask(number, self._requests[number])
                case Kind.FIRST_TOKEN:
                    self._first_token(number, version)
                case Kind.ENDED:
                    if version == self._versions[number]:
                        self._end(number)
                case Kind.LOST:
                    self._lose(number)
                case Kind.BACK:
                    self._lost.discard(number)
                case Kind.SAMPLE:
                    self._sample()
        return self.outcome

    @property
    def _counts(self) -> bool:
        return self.outcome.since <= self.now <= self._until

    def _ask(self, number: int, request: Request) -> None:
        chat = self._chats[request.chat]
        while True:
            place = self._fleet.choose(chat.key, request.tried)
            place.sent()
            if place.index not in self._lost:
                break
            place.ended(fault=True)  # refused: the next one is asked
            request.tried.append(place)
            self.outcome.retried += self._counts
        request.place, request.attempt = place, request.attempt + 1
        replica, message = self._replicas[place.index], chat.turns[request.turn][0]
        known = replica.cache.use(("application", chat.application))
        replica.cache.hold(("application", chat.application), SYSTEM)
        before, request.hit = request.hit, known + replica.cache.use(request.chat) if known else 0
        prompt = SYSTEM + request.history + message
        if self._counts:
            self.outcome.hits += request.hit - before
            if request.attempt == 1:
                self.outcome.prompt += prompt
                self.outcome.possible += SYSTEM + request.history
        at = replica.prefill(self.now, max(LEAST_NEW, prompt - request.hit))
        heappush(self._events, (at, Kind.FIRST_TOKEN, number, request.attempt))
        self._expect_end(place.index)

    def _first_token(self, number: int, attempt: int) -> None:
        request = self._requests.get(number)
        if request is None or request.place is None or attempt != request.attempt:
            return  # what was under way at a replica that is lost
        index = request.place.index
        request.began = True
        if self.outcome.since <= request.asked <= self._until:
            self.outcome.asked.append(request.asked)
            self.outcome.ttft.append(self.now - request.asked)
        self._replicas[index].decode(self.now, number, self._chats[request.chat].turns[request.turn][1])
        self._expect_end(index)

    def _end(self, index: int) -> None:
        number = self._replicas[index].finish(self.now)
        request = self._requests.pop(number)
        chat = self._chats[request.chat]
        message, answer, _ = chat.turns[request.turn]
        assert request.place is not None
        request.place.ended(fault=False)
        self._replicas[index].cache.hold(request.chat, request.history + message + answer)
        self._expect_end(index)
        self._go_on(request)

    def _go_on(self, request: Request) -> None:
        """The chat's next turn, after a pause."""
        turns = self._chats[request.chat].turns
        message, answer, pause = turns[request.turn]
        if request.turn + 1 == len(turns):
            return
        asked = self.now + pause
        self._requests[self._numbers] = Request(
            request.chat, request.turn + 1, request.history + message + answer, asked
        )
        heappush(self._events, (asked, Kind.ASKED, self._numbers, 0))
        self._numbers += 1

    def _expect_end(self, index: int) -> None:
        self._versions[index] += 1
        at = self._replicas[index].next_end()
        if at is not None:
            heappush(self._events, (at, Kind.ENDED, index, self._versions[index]))

    def _lose(self, index: int) -> None:
        """Streams that began are cut, and their chats go on after a pause; all others are asked again elsewhere."""
        self._lost.add(index)
        self._versions[index] += 1
        self._replicas[index].lose(self.now)
        there = [(n, r) for n, r in self._requests.items() if r.place is not None and r.place.index == index]
        for number, request in there:
            assert request.place is not None
            request.place.ended(fault=True)
            if request.began:
                self.outcome.cut += self._counts
                del self._requests[number]
                self._go_on(request)
            else:
                request.tried.append(request.place)
                request.place = None
                self.outcome.retried += self._counts
                self._ask(number, request)

    def _sample(self) -> None:
        loads = self._fleet.loads
        average = sum(loads) / len(loads)
        if average:
            self.outcome.uneven.append(max(loads) / average)
        if self.now + SAMPLE_EVERY <= min(self._until, self._chats[-1].began):
            heappush(self._events, (self.now + SAMPLE_EVERY, Kind.SAMPLE, 0, 0))
