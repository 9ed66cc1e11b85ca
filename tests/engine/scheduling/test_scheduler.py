"""Plans, without a model: who runs, with how many tokens, over which pages."""

from collections.abc import Sequence

from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.kv_cache import PagePool
from truss_model.engine.scheduling.row import Row, RowStatus
from truss_model.engine.scheduling.scheduler import STRETCH, Scheduler, StepCosts, StepPlan

SIZE = 4


def scheduler(pages: int = 64, rows: int = 8, budget: int = 16, long: int = 1000) -> Scheduler:
    return Scheduler(PagePool(pages, SIZE), max_rows=rows, token_budget=budget, long_prefill=long)


def request(prompt: int, arrival: int, n: int = 1) -> list[Row]:
    generation = Generation(prompt, n, lambda *_: None)
    rows: list[Row] = []
    for index in range(n):
        tokens = [100 * arrival + token for token in range(prompt)]
        rows.append(Row(generation, index, tokens, prompt, SamplingParams(), arrival))
        rows[index].leader = rows[0] if index else None
    return rows


def run(planner: Scheduler, plan: StepPlan) -> None:
    """What the engine does with a step: all computed, one token for each row that samples."""
    planner.launched(plan)
    planner.computed(plan)
    for chunk in plan.chunks:
        if chunk.samples:
            chunk.row.tokens[-1] = 7


def shares(plan: StepPlan) -> list[tuple[int, int]]:
    return [(chunk.row.arrival, chunk.length) for chunk in plan.chunks]


def test_prompts_share_the_budget_in_order_of_arrival() -> None:
    planner = scheduler(budget=16)
    for row in request(10, 1) + request(10, 2) + request(10, 3):
        planner.add(row)
    plan = planner.plan()
    assert shares(plan) == [(1, 10), (2, 6)]
    run(planner, plan)
    assert shares(planner.plan()) == [(1, 1), (2, 4), (3, 10)]


def test_a_long_prompt_is_gentle_with_rows_that_decode_and_lets_short_ones_pass() -> None:
    planner = scheduler(pages=200, budget=64, long=50)
    planner.costs = StepCosts(decode_step=0.020, prefill_token=0.001)
    for row in request(3, 1):
        planner.add(row)
    run(planner, planner.plan())
    for row in request(300, 2) + request(8, 3):
        planner.add(row)
    gentle = int((STRETCH - 1) * 20)
    assert shares(planner.plan()) == [(1, 1), (2, gentle), (3, 8)]


def test_alone_a_long_prompt_has_the_whole_budget() -> None:
    planner = scheduler(pages=200, budget=64, long=50)
    planner.add(request(300, 1)[0])
    assert shares(planner.plan()) == [(1, 64)]


def test_a_request_of_many_rows_does_not_shut_others_out() -> None:
    planner = scheduler(rows=4)
    for row in request(3, 1, n=10):
        planner.add(row)
    run(planner, planner.plan())
    planner.add(request(3, 2)[0])
    plan = planner.plan()
    assert sorted(row.arrival for row in planner.running) == [1, 1, 1, 2]
    assert plan.admitted[0].arrival == 2


def test_rows_of_one_request_share_whole_pages_and_copy_the_last() -> None:
    planner = scheduler()
    leader, second = request(10, 1, n=2)
    planner.add(leader)
    planner.add(second)
    run(planner, planner.plan())
    plan = planner.plan()
    assert plan.admitted == [second]
    assert second.pages[:2] == leader.pages[:2]
    assert plan.copies == [(leader.pages[2], second.pages[2])]
    assert second.remaining == 1


def test_the_newest_row_makes_way_and_comes_back_first() -> None:
    planner = scheduler(pages=4)
    old, new = request(4, 1)[0], request(3, 2)[0]
    planner.add(old)
    planner.add(new)
    for _ in range(30):
        if planner.preemptions:
            break
        run(planner, planner.plan())
    planner.add(request(1, 3)[0])
    assert planner.preemptions == 1
    assert (new.pages, new.computed, new.status, planner.waiting[0]) == ([], 0, RowStatus.WAITING, new)
    assert old in planner.running
    planner.drop(old)
    plan = planner.plan()
    assert plan.admitted[0] is new


def test_the_status_of_a_row_from_the_queue_to_its_end() -> None:
    planner = scheduler(budget=6)
    row = request(10, 1)[0]
    row.params = SamplingParams(max_tokens=2)
    planner.add(row)
    seen = [row.status]
    for _ in range(3):
        plan = planner.plan()
        seen.append(row.status)
        run(planner, plan)
        seen.append(row.status)
    assert planner.plan().chunks == []  # its last token is on its way
    planner.drop(row)
    assert [status.name for status in [*seen, row.status]] == [
        *("WAITING", "PREFILL", "PREFILL", "PREFILL", "DECODE", "DECODE", "LAST_TOKEN", "ENDED")
    ]


def test_a_dropped_row_gives_everything_back() -> None:
    planner = scheduler()
    rows = request(10, 1, n=3) + request(5, 2)
    for row in rows:
        planner.add(row)
    run(planner, planner.plan())
    run(planner, planner.plan())
    for row in rows:
        planner.drop(row)
        planner.drop(row)
    assert planner.pool.available == 64
    assert not planner.running and not planner.waiting


def test_who_finds_no_row_finds_its_pages_free() -> None:
    """Other threads read the counts between any two statements."""
    rows: list[int] = []

    class Pool(PagePool):
        def release(self, pages: Sequence[int]) -> None:
            rows.append(len(planner.running))
            super().release(pages)

    planner = scheduler()
    planner.pool = Pool(64, SIZE)
    [row] = request(10, 1)
    planner.add(row)
    run(planner, planner.plan())
    planner.drop(row)
    assert (rows, planner.running, planner.pool.available) == ([1], [], 64)
