"""Which server a conversation belongs to: the same in every process, moved only when it must be, never piled up."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bridge_adapter.upstream.affinity import BOUND, FREE, capacities, choose, conversation_key, ranking

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)


def chat(*texts: str, **fields: object) -> dict[str, object]:
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]
    return {"messages": turns, **fields}


def test_all_turns_of_a_conversation_have_one_key() -> None:
    system = {"role": "system", "content": "Be brief."}
    first = [system, {"role": "user", "content": "Who won?"}]
    later = [*first, {"role": "assistant", "content": "They did."}, {"role": "user", "content": "Where?"}]
    assert conversation_key({"messages": first}) == conversation_key({"messages": later})
    assert conversation_key(chat("a")) == conversation_key(chat("a", "b")) == conversation_key(chat("a", "b", "c"))
    assert conversation_key(chat("a")) != conversation_key(chat("b"))


def test_a_cache_key_stands_above_the_text_and_a_user_beside_it() -> None:
    assert conversation_key(chat("a", prompt_cache_key="k")) == conversation_key(chat("b", prompt_cache_key="k"))
    assert conversation_key(chat("a", user="me")) != conversation_key(chat("a", user="you"))


def test_every_form_of_a_prompt_gives_a_key_and_an_empty_body_gives_none() -> None:
    bodies = [{"prompt": "a"}, {"prompt": ["a"]}, {"prompt": [1, 2]}, {"input": "a"}, {"input": [{"role": "user"}]}]
    assert all(conversation_key(body) is not None for body in bodies)
    assert conversation_key({}) is None
    assert conversation_key({"messages": []}) is None


@given(NAMES, st.binary(min_size=1, max_size=16))
def test_who_goes_moves_nobody_else(names: list[str], key: bytes) -> None:
    order = ranking(key, dict.fromkeys(names, 1.0))
    assert sorted(order) == sorted(names)
    assert ranking(key, dict.fromkeys(names[1:], 1.0)) == [name for name in order if name != names[0]]


@given(NAMES, st.lists(st.binary(min_size=1, max_size=16), max_size=200))
def test_nobody_holds_more_than_the_bound(names: list[str], keys: list[bytes]) -> None:
    weights = dict.fromkeys(names, 1.0)
    loads = dict.fromkeys(names, 0)
    for key in keys:
        loads[choose(key, loads, weights)] += 1
    assert max(loads.values()) <= max(FREE, -(-BOUND * len(keys) // len(names)))


def test_a_key_goes_to_its_own_server_until_that_is_full_and_then_to_its_next() -> None:
    weights = dict.fromkeys("abcd", 1.0)
    order = ranking(b"key", weights)
    loads = dict.fromkeys("abcd", 0)
    assert choose(b"key", loads, weights) == order[0]
    loads[order[0]] = FREE
    assert choose(b"key", loads, weights) == order[1]
    assert choose(b"key", dict.fromkeys("abcd", 100), weights) == order[0]


def test_weights_share_the_keys_and_the_room() -> None:
    weights = {"small": 1.0, "large": 3.0}
    first = Counter(ranking(number.to_bytes(4, "big"), weights)[0] for number in range(4000))
    assert 0.70 < first["large"] / 4000 < 0.80
    assert capacities(80, weights, 1.25) == {"small": 25, "large": 75}


def test_without_a_key_the_least_loaded_for_its_weight_is_chosen() -> None:
    assert choose(None, {"a": 3, "b": 2}, {"a": 1.0, "b": 1.0}) == "b"
    assert choose(None, {"a": 3, "b": 2}, {"a": 3.0, "b": 1.0}) == "a"
