import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truss_model.engine.generation import FinishReason, Generation, PromptScore, TokenLogprob, TokenOutput
from truss_model.errors import ClientGone, EngineUnwell, GenerationFailed, QueueFull
from truss_model.output.answer import RowDecoder
from truss_model.output.completion import Completion
from truss_model.output.events import (
    AnswerEvent,
    DoneEvent,
    ErrorEvent,
    FinishEvent,
    StartEvent,
    TextEvent,
    Usage,
    lines,
)
from truss_model.output.stream import AnswerWriter
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer


class Running:
    """A request whose engine is the test: it admits, delivers and fails by hand, and sees what is cancelled."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        rows: int = 1,
        stop: Sequence[str] = (),
        logprobs: bool = False,
        scored_prompt: Sequence[int] | None = None,
    ) -> None:
        self.cancelled: list[int | None] = []
        self.generation = Generation(7, rows, lambda _, index: self.cancelled.append(index))
        self.completion = Completion(self.generation, [RowDecoder(tokenizer, stop=stop) for _ in range(rows)])
        vocabulary = tokenizer.vocabulary
        self.writer = AnswerWriter(self.completion, vocabulary, "m", logprobs=logprobs, scored_prompt=scored_prompt)

    def deliver(self, ids: Sequence[int], reason: FinishReason | None = None, index: int = 0) -> None:
        logprobs = [TokenLogprob(-1.0, ((id_, -1.0),)) for id_ in ids]
        self.generation.deliver(TokenOutput(index, list(ids), logprobs, reason))

    async def events(self) -> list[dict[str, Any]]:
        written = [lines(batch) async for batch in self.writer.events(60.0)]
        return [json.loads(line) for line in "".join(written).splitlines()]


async def test_a_stream_from_start_to_done(tokenizer: ChatTokenizer) -> None:
    running = Running(tokenizer)
    running.generation.admit(cached_tokens=4)
    running.deliver(tokenizer.encode_text("Hello there")[1:])
    running.deliver([2], "stop")
    events = await running.events()
    assert events == [
        {"event": "start", "prompt_tokens": 7, "cached_tokens": 4, "model": "m"},
        {"event": "delta", "index": 0, "text": "Hello there", "tokens": 3},
        {"event": "finish", "index": 0, "reason": "stop"},
        {
            "event": "done",
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "cached_tokens": 4},
        },
    ]


async def test_a_stop_string_cancels_its_row_and_ends_the_count(tokenizer: ChatTokenizer) -> None:
    running = Running(tokenizer, rows=2, stop=[" two"])
    ids = tokenizer.encode_text("one two three")[1:]
    running.deliver(ids, index=0)
    running.deliver(ids[:1], "length", index=1)
    whole = await running.writer.whole(2)
    assert [(c["text"], c["finish_reason"]) for c in whole["choices"]] == [("one", "stop"), ("one", "length")]
    assert running.cancelled == [0]
    assert whole["usage"]["completion_tokens"] == 2 + 1


async def test_text_is_told_with_its_logprobs(tokenizer: ChatTokenizer) -> None:
    running = Running(tokenizer, logprobs=True)
    running.deliver(tokenizer.encode_text("Hé there")[1:])
    running.deliver([2], "stop")
    whole = await running.writer.whole(1)
    told = whole["choices"][0]["logprobs"]
    assert b"".join(bytes(entry["bytes"]) for entry in told).decode() == whole["choices"][0]["text"] == "Hé there"


async def test_the_prompts_logprobs_come_once_and_before_the_text(tokenizer: ChatTokenizer) -> None:
    prompt = tokenizer.encode_text("Hi")
    streamed, plain = (Running(tokenizer, rows=2, scored_prompt=prompt) for _ in range(2))
    for running in (streamed, plain):
        running.generation.score([PromptScore(-1.0, 1)] * (len(prompt) - 1))
        for index in range(2):
            running.deliver([], "length", index)
    start, told, *ends = await streamed.events()
    assert (start["event"], told["event"], [end["event"] for end in ends]) == (
        *("start", "prompt", ["finish", "finish", "done"]),
    )
    assert [(entry["token"], entry["logprob"]) for entry in told["prompt_logprobs"]] == [("<s>", None), ("Hi", -1.0)]
    assert (await plain.writer.whole(2))["prompt_logprobs"] == told["prompt_logprobs"]


async def test_silence_is_filled_and_loses_nothing(tokenizer: ChatTokenizer) -> None:
    running = Running(tokenizer)
    batches: list[list[AnswerEvent]] = []
    async for batch in running.writer.events(keepalive_seconds=0.001):
        batches.append(batch)
        if batch == [] and batches.count([]) == 2:
            running.deliver(tokenizer.encode_text("Hello")[1:], "length")
    start, *others = [event for batch in batches for event in batch]
    assert isinstance(start, StartEvent)
    assert others == [TextEvent(0, "Hello", 1), FinishEvent(0, "length"), DoneEvent(Usage(7, 1, 0))]


async def test_a_fault_is_the_last_line_behind_what_was_made(tokenizer: ChatTokenizer) -> None:
    running = Running(tokenizer)
    running.deliver(tokenizer.encode_text("Hello there")[1:])
    running.generation.fail(GenerationFailed("a step failed"))
    events = await running.events()
    assert [event["event"] for event in events] == ["start", "delta", "error"]
    assert (events[-1]["status"], events[-1]["message"]) == (500, "a step failed")


async def test_an_unforeseen_exception_is_an_error_event_that_tells_no_secret(
    tokenizer: ChatTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(tokenizer)
    running.deliver(["not", "ids"], "stop")  # type: ignore[list-item]
    events = await running.events()
    assert [event["event"] for event in events] == ["start", "error"]
    assert events[-1]["message"] == "The model had an error while generating the answer."
    assert "A stream failed." in caplog.text


async def test_a_closed_stream_cancels_all_rows(tokenizer: ChatTokenizer) -> None:
    running = Running(tokenizer, rows=2)
    batches = running.writer.events(60.0)
    await anext(batches)
    await batches.aclose()
    assert running.cancelled == [None]


async def test_an_abort_ends_the_wait_in_the_queue_the_stream_and_the_plain_answer(tokenizer: ChatTokenizer) -> None:
    for reason in (ClientGone("left"), EngineUnwell("drained")):
        queued, streamed, plain = (Running(tokenizer) for _ in range(3))
        tasks = [
            asyncio.create_task(queued.completion.admitted()),
            asyncio.create_task(plain.writer.whole(1)),
        ]
        batches = streamed.writer.events(60.0)
        await anext(batches)
        for running in (queued, streamed, plain):
            running.completion.abort(reason)
            running.completion.abort(ClientGone("again"))
            assert running.cancelled == [None]
        assert await asyncio.gather(*tasks, return_exceptions=True) == [reason, reason]
        assert [batch async for batch in batches] == [[ErrorEvent(reason)]]


async def test_what_speaks_against_admission_is_raised(tokenizer: ChatTokenizer) -> None:
    running = Running(tokenizer)
    running.generation.fail(QueueFull("waited too long", retry_after=3))
    with pytest.raises(QueueFull):
        await running.completion.admitted()


@settings(max_examples=50)
@given(data=st.data())
def test_a_stream_says_what_the_plain_answer_says_however_its_tokens_arrive(
    data: st.DataObject, tokenizer: ChatTokenizer
) -> None:
    text = data.draw(st.text(st.sampled_from("ab e日🙂\n"), min_size=1, max_size=30))
    ids = [*tokenizer.encode_text(text)[1:], 2]
    stop = data.draw(st.lists(st.text(st.sampled_from("ab e"), min_size=1, max_size=3), max_size=2))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ids)))))

    async def in_pieces(running: Running) -> None:
        start = 0
        for cut in [*cuts, len(ids)]:
            if cut > start:
                running.deliver(ids[start:cut], "stop" if cut == len(ids) else None)
                await asyncio.sleep(0)
            start = cut

    async def both() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        plain, streamed = Running(tokenizer, stop=stop), Running(tokenizer, stop=stop)
        plain.deliver(ids, "stop")
        _, events = await asyncio.gather(in_pieces(streamed), streamed.events())
        return await plain.writer.whole(1), events

    whole, events = asyncio.run(both())
    deltas = [event for event in events if event["event"] == "delta"]
    choice = whole["choices"][0]
    assert "".join(event["text"] for event in deltas) == choice["text"]
    assert [event["event"] for event in events if event["event"] != "delta"] == ["start", "finish", "done"]
    assert events[-2]["reason"] == choice["finish_reason"]
    assert events[-1]["usage"] == whole["usage"]
    assert sum(event["tokens"] for event in deltas) <= whole["usage"]["completion_tokens"]
    if not stop:
        assert choice["text"] == text
