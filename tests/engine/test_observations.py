"""What the histograms hold after requests whose times are known, and after those of a real engine."""

from collections.abc import Mapping

from tests.engine.conftest import ENDLESS, StartEngine, collect, greedy, make_model
from truss_model.engine.generation import Generation
from truss_model.engine.histogram import Distribution
from truss_model.engine.observations import Observations
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import PENDING, Row, RowStatus, make_rows
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan

PROMPT = [7] * 20


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def rows_at(arrived: float, n: int = 1) -> list[Row]:
    generation = Generation(len(PROMPT), n, lambda it, index: None)
    rows = make_rows(generation, PROMPT, SamplingParams(max_tokens=9), n, 1)
    for row in rows:
        row.arrived, row.status, row.admissions = arrived, RowStatus.DECODE, 1
    return rows


def step(observations: Observations, rows: list[Row], at: float) -> None:
    chunks = [Chunk(row, len(row.tokens), 1, samples=True) for row in rows]
    observations.stepped(StepPlan(chunks), chunks, at, 0.25)


def count(found: Distribution) -> int:
    return sum(found.counts)


def totals(observations: Observations) -> Mapping[str, tuple[int, float]]:
    return {name: (count(found), round(found.total, 6)) for name, found in observations.distributions().items()}


def test_times_count_from_the_arrival_and_from_the_previous_token() -> None:
    clock = Clock()
    observations = Observations(clock)
    (old,), (new,) = rows_at(100.0), rows_at(101.0)
    clock.now = 100.5
    observations.admitted(old)
    step(observations, [old], 102.0)
    step(observations, [old, new], 102.5)  # a gap of 0.5 s and a first token after 1.5 s
    step(observations, [old, new], 103.5)  # two gaps of 1 s
    found = totals(observations)
    assert found["request_queue_time_seconds"] == (1, 0.5)
    assert found["request_prompt_tokens"] == (1, 20.0)
    assert found["time_to_first_token_seconds"] == (2, 3.5)
    assert found["inter_token_latency_seconds"] == (3, 2.5)
    assert found["step_rows"] == found["step_tokens"] == (3, 5.0)
    assert found["step_pages_used_ratio"] == (3, 0.75)


def test_rows_that_left_during_the_step_got_no_token() -> None:
    observations = Observations(Clock())
    stays, leaves = rows_at(100.0, n=2)
    step(observations, [stays, leaves], 101.0)
    leaves.status = RowStatus.ENDED
    step(observations, [leaves, stays], 103.0)
    assert totals(observations)["inter_token_latency_seconds"] == (1, 2.0)


def test_a_preempted_row_has_one_first_token_and_a_long_gap() -> None:
    observations = Observations(Clock())
    (row,) = rows_at(100.0)
    step(observations, [row], 101.0)
    row.status, row.admissions = RowStatus.DECODE, 2
    step(observations, [row], 109.0)
    found = totals(observations)
    assert found["time_to_first_token_seconds"] == (1, 1.0)
    assert found["inter_token_latency_seconds"] == (1, 8.0)


def test_a_closed_request_counts_its_time_once_and_the_tokens_of_each_answer() -> None:
    clock = Clock()
    observations = Observations(clock)
    first, second = rows_at(100.0, n=2)
    first.tokens += [1, 2, 3]
    second.tokens += [1, PENDING]  # a step ahead was to compute one more
    clock.now = 104.0
    observations.closed([first, second])
    found = totals(observations)
    assert found["e2e_request_latency_seconds"] == (1, 4.0)
    assert found["request_generation_tokens"] == (2, 4.0)


def test_a_request_that_left_the_queue_without_a_row_does_not_count() -> None:
    observations = Observations(Clock())
    (row,) = rows_at(100.0)
    row.admissions = 0
    observations.closed([row])
    observations.closed([])
    assert totals(observations)["e2e_request_latency_seconds"] == (0, 0.0)


async def test_an_engine_observes_every_request_token_and_step(start_engine: StartEngine) -> None:
    engine = start_engine(make_model())
    await greedy(engine, [5] * 30, 6)
    await collect(engine.submit([6] * 10, SamplingParams(max_tokens=4, temperature=0.0), n=3))
    engine.stop()
    found, stats = engine.observations.distributions(), engine.stats()
    assert count(found["request_queue_time_seconds"]) == count(found["e2e_request_latency_seconds"]) == 2
    assert (count(found["request_prompt_tokens"]), found["request_prompt_tokens"].total) == (2, 40.0)
    assert (count(found["request_generation_tokens"]), found["request_generation_tokens"].total) == (4, 6.0 + 3 * 4)
    assert count(found["time_to_first_token_seconds"]) == 4
    assert count(found["inter_token_latency_seconds"]) == stats.generated_tokens - 4
    assert count(found["step_rows"]) == count(found["step_tokens"]) == stats.steps
    assert found["step_tokens"].total >= stats.prefill_tokens
    first, whole = found["time_to_first_token_seconds"].total, found["e2e_request_latency_seconds"].total
    assert 0 < found["request_queue_time_seconds"].total <= first
    assert whole > 0


async def test_an_engine_does_not_time_what_failed_or_was_cancelled_in_the_queue(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), max_rows=1)
    running = engine.submit([5] * 10, SamplingParams(max_tokens=ENDLESS, temperature=0.0))
    await running.admitted()
    waiting = engine.submit([6] * 10, SamplingParams(max_tokens=5))
    waiting.cancel()
    running.cancel()
    await greedy(engine, [7] * 10, 2)
    engine.stop()
    found = engine.observations.distributions()
    assert count(found["request_queue_time_seconds"]) == count(found["e2e_request_latency_seconds"]) == 2
