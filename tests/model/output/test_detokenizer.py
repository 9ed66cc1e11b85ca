"""Text machines against the tokenizers' own decoders and against the plainest reference for stop strings."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tokenizers_at_hand import SpelledTokenizer, chatml_folder, metaspace_folder, mistral
from truss_model.engine.generation import TokenLogprob
from truss_model.output.answer import Delta, RowDecoder, TextDelta
from truss_model.output.detokenizer import Utf8Decoder
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer, load_tokenizer
from truss_model.tokenizer.template import TemplateTokenizer

# Little enough variety that stop strings, their beginnings and repeats of them are met all the time.
TEXTS = st.text(alphabet="ab\n é🙂", max_size=24)
STOPS = st.lists(st.text(alphabet="ab\n é🙂", min_size=1, max_size=5), max_size=4)


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def answer_text(tokenizer: ChatTokenizer, token_ids: Sequence[int], **options: Any) -> str:
    answer = RowDecoder(tokenizer, **options)
    return text_of([delta for token_id in token_ids for delta in answer.decode([token_id])] + answer.finish())


def cut_into(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The stop string that ends first wins, the longest of those that end together."""
    for end in range(len(text) + 1):
        ending = [string for string in stop if text[:end].endswith(string)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(st.binary(max_size=24), st.lists(st.integers(0, 24)))
def test_bytes_in_any_cut_decode_as_a_whole(data: bytes, cuts: list[int]) -> None:
    decoder = Utf8Decoder()
    assert "".join(map(decoder.decode, cut_into(data, cuts))) + decoder.flush() == data.decode(errors="replace")


@pytest.mark.parametrize("version", ["v1", "v2", "v3", "v7", "tekken"])
@settings(max_examples=30)
@given(data=st.data())
def test_any_tokens_read_as_mistrals_own_decoder_reads_them(version: str, data: st.DataObject) -> None:
    tokenizer = mistral(version)
    low = st.integers(0, 1_100)  # control and byte tokens
    token_ids = data.draw(st.lists(low | st.integers(0, tokenizer.vocab_size - 1), max_size=24))
    assert answer_text(tokenizer, token_ids) == tokenizer._tokenizer.decode(token_ids)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> TemplateTokenizer:
    return TemplateTokenizer(chatml_folder(tmp_path_factory.mktemp("chatml")))


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return load_tokenizer(metaspace_folder(tmp_path_factory.mktemp("metaspace")))


@given(data=st.data())
def test_any_tokens_read_as_the_byte_level_decoder_reads_them(chatml: TemplateTokenizer, data: st.DataObject) -> None:
    token_ids = data.draw(st.lists(st.integers(0, chatml.vocab_size - 1), max_size=24))
    assert answer_text(chatml, token_ids) == chatml._hf.decode(token_ids, skip_special_tokens=True)


def test_space_marks_of_a_tokenizer_json(metaspace: ChatTokenizer) -> None:
    ids = metaspace.encode_text("the cat é")
    assert answer_text(metaspace, ids) == "the cat é"
    assert answer_text(metaspace, ids, continues_text=True) == " the cat é"


@pytest.mark.parametrize("version", ["v1", "v3", "v7", "tekken"])
@settings(max_examples=30)
@given(text=st.text(max_size=40))
def test_encoded_text_reads_back(version: str, text: str) -> None:
    tokenizer = mistral(version)
    ids = tokenizer.encode_ordinary(text)
    assert b"".join(map(tokenizer.vocabulary.token_bytes, ids)).decode() == text
    assert answer_text(tokenizer, ids, continues_text=True) == text
    assert answer_text(tokenizer, tokenizer.encode_text(text)) == text


def test_a_leading_space_is_text_where_the_answer_continues_one() -> None:
    tokenizer = mistral("v3")
    ids = tokenizer.encode_text("Paris")[1:]
    assert answer_text(tokenizer, ids) == "Paris"
    assert answer_text(tokenizer, ids, continues_text=True) == " Paris"


@given(TEXTS, STOPS, st.lists(st.integers(0, 100)))
def test_no_stop_string_is_shown_in_any_cut(text: str, stop: list[str], cuts: list[int]) -> None:
    pieces = cut_into(text.encode(), cuts)
    answer = RowDecoder(SpelledTokenizer(pieces), stop=stop)
    shown = ""
    for token_id in range(len(pieces)):
        shown += text_of(answer.decode([token_id]))
        assert before_stop(text, stop).startswith(shown)
    assert shown + text_of(answer.finish()) == before_stop(text, stop)
    assert answer.stopped == (before_stop(text, stop) != text)


@given(TEXTS, STOPS, st.lists(st.integers(0, 100)), st.integers(1, 5))
def test_the_delivery_of_tokens_changes_no_text(text: str, stop: list[str], cuts: list[int], batch: int) -> None:
    pieces = cut_into(text.encode(), cuts)
    answer = RowDecoder(SpelledTokenizer(pieces), stop=stop)
    deltas: list[Delta] = []
    for start in range(0, len(pieces), batch):
        deltas += answer.decode(range(start, min(start + batch, len(pieces))))
    assert text_of(deltas + answer.finish()) == before_stop(text, stop)


@given(TEXTS, STOPS, st.lists(st.integers(0, 100)))
def test_each_delta_shows_its_own_tokens_bytes(text: str, stop: list[str], cuts: list[int]) -> None:
    pieces = cut_into(text.encode(), cuts)
    answer = RowDecoder(SpelledTokenizer(pieces), stop=stop)
    deltas: list[Delta] = []
    for token_id in range(len(pieces)):
        deltas += answer.decode([token_id], [TokenLogprob(-float(token_id))])
    deltas += answer.finish()
    tokens = [token for delta in deltas if isinstance(delta, TextDelta) for token in delta.tokens]
    for delta in deltas:
        assert isinstance(delta, TextDelta)
        assert b"".join(token.data for token in delta.tokens).decode() == delta.text != ""
    assert [token.token_id for token in tokens] == list(range(len(tokens)))
    assert [token.logprob.logprob for token in tokens] == [-float(index) for index in range(len(tokens))]
    assert all(pieces[token.token_id].startswith(token.data) for token in tokens)


def test_text_comes_as_soon_as_it_is_certain() -> None:
    spelling = [b"Hel", b"lo \xf0\x9f", b"\x99\x82", b" EN", b"JOY", b" E", b"ND", b"rest"]
    answer = RowDecoder(SpelledTokenizer(spelling), stop=["END"])
    shown = [text_of(answer.decode([token_id])) for token_id in range(8)]
    assert shown == ["Hel", "", "lo 🙂", "", " ENJOY", "", " ", ""]
    assert answer.stopped
    assert answer.finish_reason("stop") == "stop"


def test_broken_characters_are_shown_at_the_end_and_before_a_control_token() -> None:
    tokenizer = SpelledTokenizer([b"hi\xf0\x9f\x99", None, b"\x82!"])
    assert answer_text(tokenizer, [0]) == "hi\ufffd"
    assert answer_text(tokenizer, [0, 2]) == "hi\U0001f642!"
    assert answer_text(tokenizer, [0, 1, 2]) == "hi\ufffd\ufffd!"
    assert answer_text(mistral("v3"), [771 + 0xF0, 771 + 0x9F, 771 + 0x99]) == "\ufffd\ufffd\ufffd"


def test_ids_beyond_the_tokenizer_are_no_text() -> None:
    assert answer_text(SpelledTokenizer([b"a"]), [0, 7, 0]) == "aa"


def test_a_long_stop_string_costs_one_step_a_byte() -> None:
    stop = "a" * 100_000 + "b"
    pieces = [b"a" * 50] * 2_100
    answer = RowDecoder(SpelledTokenizer(pieces), stop=[stop])
    shown = sum(len(text_of(answer.decode([token_id]))) for token_id in range(len(pieces)))
    assert shown == 5_000
    assert text_of(answer.finish()) == "a" * 100_000


def test_what_is_cut_inside_a_character_ends_before_it() -> None:
    pieces = [b"a\xf0", b"\x9f", b"b", b"\xf0\x9f"]
    answer = RowDecoder(SpelledTokenizer(pieces))
    assert answer.decode([0, 1], [TokenLogprob(-1.0)] * 2) == []
    (delta,) = answer.finish(cut=True)
    assert isinstance(delta, TextDelta)
    assert (delta.text, [(token.token_id, token.data) for token in delta.tokens]) == ("a", [(0, b"a")])
    answer = RowDecoder(SpelledTokenizer(pieces))
    assert text_of(answer.decode([2, 3]) + answer.finish(cut=True)) == "b"
