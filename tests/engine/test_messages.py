"""What crosses between the server and the engine's process arrives as it was, however the socket cuts it."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truss_model.engine.messages import (
    FrameReader,
    frame,
    pack_error,
    pack_params,
    unpack_error,
    unpack_params,
)
from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import EngineUnwell, GenerationFailed, QueueFull, RequestError, TrussModelError

VALUES = st.recursive(
    st.none() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(st.lists(st.tuples(VALUES), min_size=1, max_size=5), st.data())
def test_frames_arrive_whole_in_any_cut(messages: list[tuple[Any, ...]], data: st.DataObject) -> None:
    sent = b"".join(map(frame, messages))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent)), max_size=6)) | {len(sent)})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, got, begin = FrameReader(ours), list[Any](), 0
        for cut in cuts:
            theirs.sendall(sent[begin:cut])
            got += reader.available()
            begin = cut
    assert got == messages


def test_a_closed_end_is_an_eof_behind_what_was_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader = FrameReader(ours)
    assert list(reader.available()) == []
    theirs.sendall(frame((1,)))
    theirs.close()
    assert reader.wait() == [(1,)]
    with pytest.raises(EOFError):
        reader.wait()
    with pytest.raises(EOFError):
        list(reader.available())


def test_parameters_arrive_as_they_were() -> None:
    params = SamplingParams(max_tokens=9, temperature=0.3, logit_bias={5: -1.5}, seed=2**63, top_logprobs=3)
    assert unpack_params(pack_params(params)) == params


@pytest.mark.parametrize(
    "error",
    [
        RequestError("wrong", param="messages", code="context_length_exceeded"),
        QueueFull("full", retry_after=2.5),
        EngineUnwell("stopped"),
        GenerationFailed("a step failed"),
    ],
)
def test_errors_arrive_as_they_were(error: TrussModelError) -> None:
    got = unpack_error(pack_error(error))
    assert type(got) is type(error)
    assert vars(got) == vars(error)
