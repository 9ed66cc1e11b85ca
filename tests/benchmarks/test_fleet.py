"""Small fleets in virtual time: the adapter's routing finds prefixes again, evenly, and outlives a replica."""

from functools import cache

import pytest

from benchmarks.chat_traffic import TURNS, Chat, make_chats
from benchmarks.fleet_routing import CELL, RULES, Fleet, Rule
from benchmarks.fleet_simulation import Loss, Outcome, Simulation
from benchmarks.replica_model import H100, PrefixCache, Replica, ReplicaSpeed

CHATS = 600
SPEED = ReplicaSpeed(prefill=1000.0, steps=((1, 0.01), (2, 0.02)), kv=10_000)


@cache
def chats(replicas: int) -> tuple[Chat, ...]:
    return tuple(make_chats(CHATS, 5.0 * replicas / TURNS, seed=3))


@cache
def outcome(replicas: int, rule: Rule) -> Outcome:
    return Simulation(replicas, rule, chats(replicas), H100).run()


@pytest.mark.parametrize("replicas", [4, CELL + 8])
def test_affinity_finds_most_prefixes_again_and_the_others_fewer(replicas: int) -> None:
    hits = {rule: outcome(replicas, rule).hits / outcome(replicas, rule).possible for rule in RULES}
    assert hits["affinity"] > 0.7
    assert hits["affinity"] > 1.5 * max(hits["least busy"], hits["round robin"])


@pytest.mark.parametrize("replicas", [4, CELL + 8])
def test_what_is_found_again_need_not_be_computed_before_the_first_token(replicas: int) -> None:
    median = {rule: sorted(outcome(replicas, rule).ttft)[CHATS] for rule in RULES}
    assert median["affinity"] < min(median["least busy"], median["round robin"])


def test_all_rules_answer_every_turn() -> None:
    turns = sum(len(chat.turns) for chat in chats(4))
    assert {len(outcome(4, rule).ttft) for rule in RULES} == {turns}
    assert len({(outcome(4, rule).prompt, outcome(4, rule).possible) for rule in RULES}) == 1


def test_only_the_time_between_since_and_until_counts() -> None:
    last = chats(4)[-1].began
    part = Simulation(4, "affinity", chats(4), H100, since=0.5 * last, until=last).run()
    assert 0 < len(part.ttft) < len(outcome(4, "affinity").ttft)
    assert 0.5 * last <= min(part.asked) <= max(part.asked) <= last


def test_a_run_can_be_repeated_to_the_last_figure() -> None:
    again = Simulation(4, "affinity", make_chats(CHATS, 5.0 * 4 / TURNS, seed=3), H100).run()
    assert again == outcome(4, "affinity")


@pytest.mark.parametrize("rule", RULES)
def test_a_lost_replica_cuts_its_streams_and_nothing_else_goes_missing(rule: Rule) -> None:
    at = 0.5 * chats(4)[-1].began
    lost = Simulation(4, rule, chats(4), H100, [Loss(1, at, away=5.0)]).run()
    whole = outcome(4, rule)
    assert 0 < lost.cut < 60
    assert lost.retried > 0
    assert (len(lost.ttft), lost.prompt) == (len(whole.ttft), whole.prompt)
    if rule == "affinity":
        assert lost.hits < whole.hits


def test_a_fleet_without_a_replica_sends_nothing_there_once_its_circuit_is_open() -> None:
    now = 0.0
    fleet = Fleet(4, "round robin", lambda: now)
    for _ in range(3):
        fleet.places[2].sent()
        fleet.places[2].ended(fault=True)
    assert {fleet.choose(None, ()).index for _ in range(8)} == {0, 1, 3}
    now = 1.5
    assert 2 in {fleet.choose(None, ()).index for _ in range(8)}, "after the cooldown it is tried"


def test_every_chat_of_a_fleet_with_cells_has_one_home_while_nothing_is_busy() -> None:
    fleet = Fleet(2 * CELL, "affinity", lambda: 0.0)
    homes = {chat.key: {fleet.choose(chat.key, ()).index for _ in range(2)} for chat in chats(4)}
    assert all(len(home) == 1 for home in homes.values())
    assert len(set.union(*homes.values())) > CELL


def test_a_replica_computes_prompts_in_turn_and_decodes_at_the_pace_of_its_rows() -> None:
    replica = Replica(SPEED)
    assert replica.prefill(0.0, 500) == pytest.approx(0.5 + 0.01)
    assert replica.prefill(0.0, 500) == pytest.approx(1.0 + 0.01)
    replica.decode(2.0, 7, 10)
    assert replica.next_end() == pytest.approx(2.0 + 10 * 0.01)
    replica.decode(2.05, 8, 100)  # the first one has five tokens to go, each takes twice as long now
    assert replica.next_end() == pytest.approx(2.05 + 5 * 0.02)
    assert replica.finish(2.15) == 7


def test_a_prompt_halves_the_pace_of_the_rows_while_it_is_computed() -> None:
    replica = Replica(SPEED)
    replica.decode(0.0, 1, 10)
    replica.prefill(0.0, 100)  # 0.1 s, in which the row gets 5 tokens of its 10
    assert replica.next_end() == pytest.approx(0.1 + 5 * 0.01)


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = PrefixCache(100)
    cache.hold("a", 40)
    cache.hold("b", 40)
    assert cache.use("a") == 40
    cache.hold("c", 40)
    assert [cache.use(name) for name in "abc"] == [40, 0, 40]
    cache.clear()
    cache.hold("d", 100)
    assert cache.use("d") == 100
