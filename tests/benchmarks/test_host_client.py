"""The streams of the host benchmark's client: answers end wherever the network cuts them, and refusals are told."""

import socket

import pytest

from benchmarks.host_client import Stream

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LINES = b'{"event":"delta","index":0,"text":"a","tokens":2}\n{"event":"done"}\n'
ANSWER = HEAD + b"%x\r\n" % len(LINES) + LINES + b"\r\n0\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("cut", [len(HEAD) + 9, len(ANSWER) - 8, len(ANSWER) - 5, len(ANSWER) - 2, len(ANSWER) - 1])
def test_an_answer_in_two_parts_counts_once_and_is_followed_by_another_request(cut: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(ours, REQUEST)
        for part in (ANSWER[:cut], ANSWER[cut:]):
            theirs.sendall(part)
            stream.read()
        assert (stream.tokens, stream.lines, stream.answers, stream.failures) == (2, 1, 1, 0)
        assert theirs.recv(1000) == REQUEST


def test_an_answer_without_done_is_a_failure() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(ours, REQUEST)
        theirs.sendall(HEAD + b"\r\n0\r\n\r\n")
        stream.read()
        assert (stream.answers, stream.failures) == (1, 1)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_refusal_and_a_closed_connection_end_the_client(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(RuntimeError, match="refused or left"):
            Stream(ours, REQUEST).read()
