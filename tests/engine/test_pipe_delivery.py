"""What the engine's process delivers is what callers read, however the pipe cuts it and however seldom they read."""

import socket
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from truss_model.engine.generation import FinishReason, Generation, TokenLogprob
from truss_model.engine.messages import FrameReader
from truss_model.engine.pipe_delivery import NumberedGeneration, PipeDelivery
from truss_model.engine.remote import RemoteEngine
from truss_model.engine.settings import EngineSettings
from truss_model.engine.stats import EngineStats
from truss_model.errors import GenerationFailed

ENDS: FinishReason = "length"
IDLE = EngineStats(*[0] * 11)
Told = dict[tuple[int, int], tuple[list[int], list[TokenLogprob], FinishReason | None]]
ROWS = st.lists(st.integers(1, 3), min_size=1, max_size=3)  # of each request
STEPS = st.lists(st.sets(st.integers(0, 8)), min_size=1, max_size=20)  # which rows get a token


class Reader:
    """Collects what a generation has for it whenever it looks."""

    def __init__(self, number: int, generation: Generation, told: Told) -> None:
        self.number, self.generation, self.told = number, generation, told
        self.error: Exception | None = None

    def look(self) -> None:
        try:
            batch = self.generation.take()
        except GenerationFailed as error:
            self.error = error
            return
        for output in batch:
            tokens, logprobs, _ = self.told.get((self.number, output.index), ([], [], None))
            self.told[self.number, output.index] = (
                tokens + output.token_ids, logprobs + output.logprobs, output.finish_reason,
            )  # fmt: skip


def written(rows: list[int], steps: list[set[int]], with_logprobs: bool, fails: bool) -> tuple[bytes, Told]:
    """The bytes of all steps, and what they say. Each row's last token ends it; `fails`: the first request ends so."""
    places = [(number, index) for number, count in enumerate(rows) for index in range(count)]
    last = {
        place: max((at for at, step in enumerate(steps) if i in step), default=-1) for i, place in enumerate(places)
    }
    sent: list[bytes] = []
    delivery = PipeDelivery(sent.append)
    delivery.state = lambda: (IDLE, True)
    generations = [NumberedGeneration(number, 3, count) for number, count in enumerate(rows)]
    told: Told = {}
    for generation in generations:
        delivery.admit(generation, 2)
    for at, step in enumerate(steps):
        for i in sorted(step):
            if i >= len(places):
                continue
            number, index = place = places[i]
            token, reason = 100 * at + i, ENDS if last[place] == at else None
            logprobs = [TokenLogprob(-0.5 * at, ((token, -0.5 * at),))] if with_logprobs else []
            tokens, held, _ = told.get(place, ([], [], None))
            told[place] = [*tokens, token], [*held, *logprobs], reason
            delivery.put(generations[number], index, token, logprobs[0] if logprobs else None, reason)
        delivery.flush()
    if fails:
        delivery.fail(generations[0], GenerationFailed("a step failed"))
        delivery.flush()
    return b"".join(sent), told


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, steps=STEPS, logprobs=st.booleans(), fails=st.booleans(), data=st.data())
def test_tokens_that_are_merged_are_those_that_were_made(
    rows: list[int], steps: list[set[int]], logprobs: bool, fails: bool, data: st.DataObject
) -> None:
    sent, wanted = written(rows, steps, logprobs, fails)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent)), max_size=12)) | {len(sent)})
    looks = data.draw(st.lists(st.booleans(), min_size=len(cuts), max_size=len(cuts)))
    engine: Any = RemoteEngine(EngineSettings(), {}, None)
    found: Told = {}
    readers = [Reader(number, Generation(3, count, lambda *_: None), found) for number, count in enumerate(rows)]
    engine._generations = {reader.number: reader.generation for reader in readers}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames, begin = FrameReader(ours), 0
        for cut, looking in zip(cuts, looks, strict=True):
            theirs.sendall(sent[begin:cut])
            begin = cut
            for message in frames.available():
                engine._hand_out(*message)
            for reader in readers if looking else ():
                reader.look()
    for reader in readers:
        reader.look()
        reader.look()
        assert reader.generation.cached_tokens == 2
    assert found == wanted
    ended = fails and any((0, index) not in wanted for index in range(rows[0]))
    assert [reader.error is not None for reader in readers] == [ended, *[False] * (len(rows) - 1)]
