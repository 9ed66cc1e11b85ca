"""Compressed request bodies: decoded within the limit, refused by name where the encoding is not known."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from bridge_adapter.errors import InvalidRequest
from bridge_adapter.server.content_encoding import ContentDecoder, decoder_for
from tests.adapter.harness import Answered, Bridge, running_bridge, settings_for
from tests.adapter.stub import Stub

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Grüße " * 50}]}).encode()
LIMIT = 100_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "upper case": ("GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstd.compress),
    "identity": ("identity", bytes),
}
ENCODED = pytest.mark.parametrize(("encoding", "encode"), ENCODERS.values(), ids=ENCODERS)
PACKED = pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])


@pytest.fixture
async def limited(stub: Stub) -> AsyncIterator[Bridge]:
    async with running_bridge(settings_for(stub.url, server={"max_body": LIMIT})) as bridge:
        yield bridge


async def post(bridge: Bridge, body: bytes, encoding: str) -> Answered:
    return await bridge.post("/v1/chat/completions", body, {"content-encoding": encoding})


def error(answered: Answered) -> tuple[int, str]:
    return answered.status, answered.json["error"]["message"]


@ENCODED
async def test_a_compressed_body_is_read(
    limited: Bridge, stub: Stub, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    assert (await post(limited, encode(BODY), encoding)).status == 200
    assert stub.last["messages"][0]["content"] == "Grüße " * 50


@PACKED
async def test_a_bomb_is_refused_before_it_is_inflated(limited: Bridge, stub: Stub, encoding: str) -> None:
    bomb = ENCODERS[encoding][1](b" " * 50_000_000)
    assert len(bomb) < LIMIT
    assert error(await post(limited, bomb, encoding)) == (
        413,
        f"The request body is too large: the limit is {LIMIT} bytes.",
    )
    assert stub.requests == []


@PACKED
async def test_a_body_of_just_the_limit_passes(limited: Bridge, encoding: str) -> None:
    encode = ENCODERS[encoding][1]
    assert (await post(limited, encode(BODY.ljust(LIMIT)), encoding)).status == 200
    assert (await post(limited, encode(BODY.ljust(LIMIT + 1)), encoding)).status == 413


@PACKED
@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data * 2, bytes.swapcase]
)
async def test_a_broken_body_is_told_apart_from_broken_json(
    limited: Bridge, encoding: str, spoil: Callable[[bytes], bytes]
) -> None:
    answered = await post(limited, spoil(ENCODERS[encoding][1](BODY)), encoding)
    assert error(answered) == (
        400,
        f"The request body is not valid {encoding}, which its Content-Encoding header says it is.",
    )


async def test_a_plain_body_that_says_gzip(limited: Bridge) -> None:
    assert error(await post(limited, BODY, "gzip"))[0] == 400
    assert error(await post(limited, b"", "gzip"))[0] == 400


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "compress", "x-zip"])
async def test_an_unknown_encoding_is_named(limited: Bridge, encoding: str) -> None:
    answered = await post(limited, BODY, encoding)
    expected = "expected gzip, deflate, zstd or identity."
    assert error(answered) == (415, f"Unsupported Content-Encoding header ({encoding}), {expected}")
    assert answered.headers["accept-encoding"] == "gzip, deflate, zstd"


async def test_a_header_without_an_end_is_too_large(limited: Bridge) -> None:
    endless = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"n" * (LIMIT + 1)  # the file's name, which gives no output
    assert error(await post(limited, endless, "gzip"))[0] == 413


def test_a_window_that_takes_much_memory_is_refused() -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    wide = compressor.compress(b" " * 1000) + compressor.flush()  # of a size that the frame does not tell
    with pytest.raises(InvalidRequest):
        decoder("zstd").decode(wide, LIMIT)


def decoder(encoding: str) -> ContentDecoder:
    made = decoder_for(encoding)
    assert made is not None
    return made


@PACKED
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_every_cut_decodes_to_the_same(encoding: str, data: bytes, cuts: list[int]) -> None:
    packed = ENCODERS[encoding][1](data)
    decoding = decoder(encoding)
    edges = [0, *sorted(min(cut, len(packed)) for cut in cuts), len(packed)]
    pieces = [packed[start:end] for start, end in pairwise(edges)]
    assert b"".join(decoding.decode(piece, LIMIT) for piece in pieces) == data
    decoding.finish()
