"""The garbage collector while a model is loaded."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from truss_model.collector import collector_at_rest


class Ring:
    """Garbage that only the collector can find."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture
def frequent() -> Iterator[None]:
    """Every tenth object starts a collection, every fourth of which is full."""
    before = gc.get_threshold()
    gc.set_threshold(10, 1, 1)
    yield
    gc.set_threshold(*before)


def test_nothing_is_collected_while_loading_and_all_of_it_afterwards() -> None:
    with collector_at_rest():
        garbage = weakref.ref(Ring())
        made = [[] for _ in range(2 * gc.get_threshold()[0])]
        assert garbage() is not None
    assert garbage() is None
    assert gc.isenabled() and len(made) > gc.get_threshold()[0]


def test_what_was_loaded_is_not_looked_at_again() -> None:
    before = gc.get_freeze_count()
    with collector_at_rest():
        loaded = Ring()
    assert gc.get_freeze_count() > before
    assert not any(it is loaded for it in gc.get_objects())


def test_what_was_loaded_puts_off_no_full_collection(frequent: None) -> None:
    """The collector skips those before which little was made, compared with what the last one left."""
    with collector_at_rest():
        loaded = [[number] for number in range(100_000)]
    ring = Ring()
    gc.collect(1)  # only a full collection finds it from now on
    garbage = weakref.ref(ring)
    del ring
    made = [[number] for number in range(1000)]
    assert garbage() is None
    assert len(loaded) > 4 * len(made)


def test_a_failed_load_leaves_the_collector_on() -> None:
    with pytest.raises(RuntimeError), collector_at_rest():
        raise RuntimeError
    assert gc.isenabled()
