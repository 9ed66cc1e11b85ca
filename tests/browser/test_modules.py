"""The page's pure modules, run in the browser: the parser of the stream under every cut, and the sums."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PARSE = """async (pieces) => {
    const { SseParser } = await import("/assets/sse.js");
    const parser = new SseParser();
    return pieces.flatMap((piece) => parser.push(piece));
}"""
SUMS = """async ([chunks, times]) => {
    const { newAnswer, takeChunk, timeToFirst, tokensPerSecond } = await import("/assets/answer.js");
    const answer = newAnswer(0);
    chunks.forEach((chunk, at) => takeChunk(answer, chunk, times[at]));
    return { first: timeToFirst(answer), speed: tokensPerSecond(answer) };
}"""

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
events = st.lists(lines, min_size=1, max_size=3)
ends = st.sampled_from(["\n", "\r\n", "\r"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_events_are_the_same_wherever_the_stream_is_cut(page: Page, data: st.DataObject) -> None:
    sent = data.draw(st.lists(events, max_size=4))
    end = data.draw(ends)
    noise = data.draw(st.sampled_from(["", ": keep-alive", "event: message", "id: 7", "retry: 5"]))
    stream = ""
    for event in sent:
        stream += (noise + end) if noise else ""
        stream += "".join(f"data: {line}{end}" for line in event) + end
    stream += ":" + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert page.evaluate(PARSE, pieces) == ["\n".join(event) for event in sent]


def chunk(content: str = "", finish: str | None = None, tokens: int = 0) -> dict[str, Any]:
    logprobs = {"content": [{"token": "x", "logprob": -1.0}] * tokens} if tokens else None
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish, "logprobs": logprobs}]}


@pytest.mark.parametrize(
    ("chunks", "times", "first", "speed"),
    [
        ([chunk(), chunk("a"), chunk("b"), chunk("c"), chunk(finish="stop")], [5, 100, 200, 300, 900], 0.1, 10),
        ([chunk("abc", tokens=3), chunk("de", tokens=2), chunk(finish="stop")], [50, 150, 151], 0.05, 20),
        ([chunk("a"), chunk(finish="length")], [10, 20], 0.01, None),
        ([chunk(), chunk(finish="stop")], [10, 20], None, None),
    ],
)
def test_the_figures(page: Page, chunks: list[Any], times: list[int], first: float | None, speed: float | None) -> None:
    answer = page.evaluate(SUMS, [chunks, times])
    assert (answer["first"], answer["speed"]) == (pytest.approx(first), pytest.approx(speed))


def test_usage_counts_where_it_is_there(page: Page) -> None:
    last = {"choices": [], "usage": {"completion_tokens": 21}}
    answer = page.evaluate(SUMS, [[chunk("a"), chunk("b"), chunk(finish="stop"), last], [0, 1000, 1001, 1002]])
    assert answer["speed"] == pytest.approx(20)
