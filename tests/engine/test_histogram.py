"""A value is counted in the bucket whose upper end is the first at or above it."""

from truss_model.engine.histogram import Distribution, Histogram


def test_a_value_belongs_to_the_first_bucket_that_ends_at_or_above_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.read() == Distribution((1.0, 2.0), (2, 2, 1), 7.0)


def test_equal_values_are_counted_in_one_call() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(3.0, 4)
    assert histogram.read() == Distribution((1.0,), (0, 4), 12.0)


def test_what_was_read_does_not_change() -> None:
    histogram = Histogram((1.0,))
    before = histogram.read()
    histogram.observe(0.5)
    assert before == Distribution((1.0,), (0, 0), 0.0)
