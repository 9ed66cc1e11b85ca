"""Pages: nothing lost, nothing shared that differs, the least recently used forgotten first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truss_model.engine.scheduling.kv_cache import ROOT, OutOfPages, PagePool

SIZE = 4


def store(pool: PagePool, tokens: list[int]) -> list[int]:
    """What a row does: match, allocate the rest, publish, as if all tokens were computed."""
    prefix = pool.match(tokens)
    pages, digest = list(prefix.pages), prefix.digest
    while len(pages) * SIZE < len(tokens):
        pages.append(pool.allocate())
    for at in range(len(prefix.pages), len(pages)):
        digest = pool.publish(pages[at], digest, tokens[at * SIZE : (at + 1) * SIZE])
    return pages


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=14), st.booleans()), max_size=40))
def test_a_match_is_always_what_was_stored(requests: list[tuple[list[int], bool]]) -> None:
    pool = PagePool(12, SIZE)
    held: list[list[int]] = []
    content: dict[int, tuple[int, ...]] = {}
    for tokens, keep in requests:
        prefix = pool.match(tokens)
        assert len(prefix.pages) * SIZE + prefix.partial < len(tokens)
        for at, page in enumerate(prefix.pages):
            assert content[page] == tuple(tokens[: (at + 1) * SIZE])
        if prefix.source is not None:
            whole = len(prefix.pages) * SIZE
            known = content[prefix.source]
            assert known[: whole + prefix.partial] == tuple(tokens[: whole + prefix.partial])
        pool.release(prefix.pages)
        try:
            pages = store(pool, tokens)
        except OutOfPages:
            break  # pages of this one request are taken and lost with it; nothing else is checked after it
        for at, page in enumerate(pages):
            content[page] = tuple(tokens[: (at + 1) * SIZE])
        if keep:
            held.append(pages)
        else:
            pool.release(pages)
    else:
        for pages in held:
            pool.release(pages)
        assert pool.available == 12


def test_held_pages_are_never_given_out() -> None:
    pool = PagePool(3, SIZE)
    kept = store(pool, [1, 2, 3, 4, 5])
    assert pool.allocate() not in kept
    with pytest.raises(OutOfPages):
        pool.allocate()


def test_the_end_of_a_conversation_is_forgotten_before_its_beginning() -> None:
    pool = PagePool(3, SIZE)
    tokens = list(range(12))
    pool.release(store(pool, tokens))
    pool.allocate()
    assert len(pool.match([*tokens, 99]).pages) == 2


def test_partial_pages_are_found_token_by_token() -> None:
    pool = PagePool(4, SIZE)
    pages = store(pool, [1, 2, 3, 4, 5, 6])
    pool.release(pages)
    prefix = pool.match([1, 2, 3, 4, 5, 9, 9])
    assert (prefix.pages, prefix.source, prefix.partial) == (pages[:1], pages[1], 1)


def test_what_is_known_is_not_kept_twice() -> None:
    pool = PagePool(8, SIZE)
    for tokens in ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6]):
        pages = [pool.allocate(), pool.allocate()]
        pool.publish(pages[1], pool.publish(pages[0], ROOT, tokens[:SIZE]), tokens[SIZE:])
        pool.release(pages)
    other = [pool.allocate() for _ in range(6)]
    pool.release(other)
    assert pool.match([1, 2, 3, 4, 5, 6, 7, 8]).partial == 3


def test_what_is_computed_again_counts_as_used() -> None:
    pool = PagePool(3, SIZE)
    pool.release(store(pool, [1, 2, 3]))
    pool.release(store(pool, [7, 8, 9]))
    again = pool.allocate()
    pool.publish(again, ROOT, [1, 2, 3])
    pool.release([again])
    pool.allocate()
    pool.allocate()
    assert pool.match([1, 2, 3, 4]).partial == 3
    assert pool.match([7, 8, 9, 4]).partial == 0


def test_the_last_token_is_never_taken_from_the_cache() -> None:
    pool = PagePool(4, SIZE)
    pages = store(pool, [1, 2, 3, 4])
    prefix = pool.match([1, 2, 3, 4])
    assert (prefix.pages, prefix.source, prefix.partial) == ([], pages[0], 3)


def test_without_prefix_caching_nothing_is_found() -> None:
    pool = PagePool(4, SIZE, prefix_caching=False)
    pool.release(store(pool, [1, 2, 3, 4, 5]))
    assert pool.match([1, 2, 3, 4, 5]).pages == []
    assert pool.available == 4


def test_the_same_tokens_after_other_tokens_are_another_page() -> None:
    pool = PagePool(8, SIZE)
    store(pool, [1, 1, 1, 1, 2, 2, 2, 2, 3])
    assert pool.match([9, 9, 9, 9, 2, 2, 2, 2, 3]).pages == []
