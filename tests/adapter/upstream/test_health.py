"""When an upstream is asked again after it failed, and how many retries all of them bear."""

from hypothesis import given
from hypothesis import strategies as st

from bridge_adapter.upstream.health import Circuit, Health
from bridge_adapter.upstream.retry_budget import LEAST, SHARE, WINDOW, RetryBudget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_upstream_is_left_alone_after_failures_in_a_row_and_tried_by_one_call() -> None:
    clock = Clock()
    health = Health(failures=3, cooldown=2.0, clock=clock)
    for _ in range(2):
        health.failed()
    health.succeeded()
    for _ in range(2):
        health.failed()
    assert health.available  # never three in a row
    health.failed()
    assert (health.circuit, health.available) == (Circuit.OPEN, False)
    clock.now += 2.0
    assert (health.circuit, health.available) == (Circuit.HALF_OPEN, True)
    health.sent()
    assert not health.available
    health.succeeded()
    assert (health.circuit, health.available) == (Circuit.CLOSED, True)


def test_a_trial_that_fails_doubles_the_time_until_the_next_up_to_the_longest() -> None:
    clock = Clock()
    health = Health(failures=1, cooldown=1.0, longest=4.0, clock=clock)
    health.failed()
    waits = []
    for _ in range(4):
        waits.append(health.retry_at - clock.now)
        clock.now = health.retry_at
        health.sent()
        health.failed()
    assert waits == [1.0, 2.0, 4.0, 4.0]


def test_a_trial_whose_client_left_lets_the_next_call_try() -> None:
    clock = Clock()
    health = Health(failures=1, cooldown=1.0, clock=clock)
    health.failed()
    clock.now += 1.0
    health.sent()
    health.abandoned()
    assert health.available


def test_a_trial_that_never_ends_does_not_close_the_upstream_for_good() -> None:
    clock = Clock()
    health = Health(failures=1, cooldown=1.0, trial=10.0, clock=clock)
    health.failed()
    clock.now += 1.0
    health.sent()
    clock.now += 9.9
    assert not health.available
    clock.now += 0.1
    assert health.available


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=400))
def test_retries_stay_within_their_share_in_every_window(steps: list[tuple[int, bool]]) -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    requests: list[float] = []
    retries: list[float] = []
    for passed, retry in steps:
        clock.now += passed
        if not retry:
            budget.request()
            requests.append(clock.now)
        elif budget.take():
            retries.append(clock.now)
            recent = [at for at in retries if at > clock.now - WINDOW]
            asked = [at for at in requests if at > clock.now - WINDOW]
            assert len(recent) <= max(LEAST, SHARE * len(asked))


def test_a_quiet_service_may_retry_a_few_times() -> None:
    budget = RetryBudget(clock=Clock())
    assert [budget.take() for _ in range(LEAST + 1)] == [True] * LEAST + [False]
