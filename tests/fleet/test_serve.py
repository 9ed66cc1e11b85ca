"""The Serve application on two replicas: whole answers, one replica for a conversation, and what fails in between."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.fleet.cluster import Fleet, deploy, events, until

PREDICT = "/v1/models/model:predict"
LONG = {"max_tokens": 1500, "ignore_eos": True, "stream": True}


def ask(fleet: Fleet, text: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(fleet.url + PREDICT, json=fleet.body(text, **fields), timeout=60)
    answer.raise_for_status()
    return dict(answer.json())


def test_a_stream_is_whole_and_says_what_the_answer_that_is_not_streamed_says(fleet: Fleet) -> None:
    whole = ask(fleet, "Hello")
    with httpx.stream("POST", fleet.url + PREDICT, json=fleet.body("Hello", stream=True), timeout=60) as response:
        lines = events(response)
    assert [line["event"] for line in lines[:1] + lines[-2:]] == ["start", "finish", "done"]
    assert "".join(line.get("text", "") for line in lines) == whole["choices"][0]["text"]
    assert lines[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 8


def test_the_next_turn_of_a_conversation_finds_its_prefix(fleet: Fleet) -> None:
    """The conversations are many and run at once, so that a router which ignores the text would find half of them."""
    opening = "This is the beginning of conversation number {} and it is long enough to fill some pages. " * 4
    cached, possible = 0, 0
    with ThreadPoolExecutor(8) as pool:
        texts = [opening.replace("{}", str(number)) for number in range(16)]
        first = list(pool.map(lambda text: ask(fleet, text), texts))
        turns = [
            [
                {"role": "user", "content": text},
                {"role": "assistant", "content": answer["choices"][0]["text"]},
                {"role": "user", "content": "And then?"},
            ]
            for text, answer in zip(texts, first, strict=True)
        ]
        second = list(pool.map(lambda messages: ask(fleet, "", messages=messages), turns))
    for before, after in zip(first, second, strict=True):
        possible += before["usage"]["prompt_tokens"] // 16 * 16
        cached += min(after["usage"]["cached_tokens"], before["usage"]["prompt_tokens"])
    assert cached >= 0.8 * possible


def test_both_replicas_answer(fleet: Fleet) -> None:
    pids = {*fleet.replicas().values()}
    assert len(pids) == 2
    before = {pid: cpu_seconds(pid) for pid in pids}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: ask(fleet, f"Question {number}", max_tokens=64, ignore_eos=True), range(32)))
    assert all(cpu_seconds(pid) > before[pid] for pid in pids)


def test_openais_routes_of_the_truss_are_served(fleet: Fleet) -> None:
    body = fleet.body("Hello", model="tiny")
    whole = httpx.post(fleet.url + "/v1/chat/completions", json=body, timeout=60)
    assert (whole.status_code, whole.json()["object"]) == (200, "chat.completion")
    with httpx.stream("POST", fleet.url + "/v1/chat/completions", json=body | {"stream": True}, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, done, _ = response.read().decode().split("\n\n")
    pieces = [json.loads(chunk.removeprefix("data: "))["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert (done, "".join(pieces)) == ("data: [DONE]", whole.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", PREDICT, b"{", 400),
        ("POST", PREDICT, b'{"messages": []}', 400),
        ("POST", "/v1/embeddings", b"{}", 404),
        ("GET", PREDICT, b"", 405),
        ("GET", "/v1/models/model", b"", 200),
    ],
)
def test_what_cannot_be_answered_is_refused_as_json(
    fleet: Fleet, method: str, path: str, body: bytes, status: int
) -> None:
    answer = httpx.request(method, fleet.url + path, content=body, timeout=60)
    assert answer.status_code == status
    assert status == 200 or set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_killed_replica_ends_its_streams_with_the_error_and_the_others_are_answered(fleet: Fleet) -> None:
    pid = next(iter(fleet.replicas().values()))
    ends, answers = await under_load(fleet, lambda: os.kill(pid, signal.SIGKILL))
    assert {answer.status_code for answer in answers} == {200}
    assert {end["event"] for end in ends} == {"done", "error"}
    assert {end["status"] for end in ends if end["event"] == "error"} == {502}
    await asyncio.to_thread(until, lambda: fleet.running() == 2 and pid not in fleet.replicas().values())


def test_replicas_go_without_load_and_come_with_it(fleet: Fleet) -> None:
    """The load lasts until the second replica runs, however long that takes to load."""
    quick = {"min_replicas": 1, "target_ongoing_requests": 4, "upscale_delay_seconds": 0.5}
    deploy(fleet.folder, **quick, downscale_delay_seconds=1)
    until(lambda: fleet.running() == 1)
    enough = threading.Event()

    def client(number: int) -> int:
        answers = 0
        while not enough.is_set():
            assert ask(fleet, f"Long {number}", max_tokens=200, ignore_eos=True)["usage"]["completion_tokens"] == 200
            answers += 1
        return answers

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client, number) for number in range(12)]
        try:
            until(lambda: fleet.running() == 2)
        finally:
            enough.set()
        assert all(future.result() for future in asked)
    deploy(fleet.folder)
    assert fleet.running() == 2


async def test_a_lost_node_ends_its_streams_with_the_error_and_leaves_the_other_one_answering(fleet: Fleet) -> None:
    ends, answers = await under_load(fleet, lambda: fleet.cluster.remove_node(fleet.nodes[0], allow_graceful=False))
    assert {answer.status_code for answer in answers} == {200}
    assert {end["event"] for end in ends} == {"done", "error"}


async def under_load(fleet: Fleet, fault: Callable[[], object]) -> tuple[list[dict[str, Any]], list[httpx.Response]]:
    """The last lines of streams that had begun when the fault came, and the answers to what was asked after it."""
    async with httpx.AsyncClient(base_url=fleet.url, timeout=120) as client:
        begun = asyncio.Semaphore(0)

        async def read(number: int) -> dict[str, Any]:
            async with client.stream("POST", PREDICT, json=fleet.body(f"Stream {number}", **LONG)) as response:
                lines = response.aiter_lines()
                last = await anext(lines)
                begun.release()
                async for line in lines:
                    last = line or last
            return dict(json.loads(last))

        streams = [asyncio.create_task(read(number)) for number in range(12)]
        for _ in streams:
            await begun.acquire()
        lost = asyncio.create_task(asyncio.to_thread(fault))
        short = [client.post(PREDICT, json=fleet.body(f"Short {number}")) for number in range(12)]
        answers = await asyncio.gather(*short)
        await lost
        return await asyncio.gather(*streams), answers


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
