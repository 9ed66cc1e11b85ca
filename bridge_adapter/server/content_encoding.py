"""Compressed request bodies: gzip, deflate and zstd, decoded as they arrive and never beyond a limit. Does no I/O."""

import zlib
from collections.abc import Callable
from typing import Protocol

from bridge_adapter.errors import InvalidRequest

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_ZLIB_METHOD = 8  # the low half of the first byte of zlib's header, RFC 1950
_ZSTD_WINDOW_LOG = 23  # 8 MB, RFC 9659: what a decoder must be able to keep, and a sender may rely on


class Decompressor(Protocol):
    """What zlib's and zstd's have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class ContentDecoder:
    """One body of one stream, as HTTP clients send it: a second stream after its end is refused."""

    def __init__(self, encoding: str, make: Callable[[bytes], Decompressor]) -> None:
        self._encoding = encoding
        self._make = make
        self._decompressor: Decompressor | None = None

    def decode(self, data: bytes, most: int) -> bytes:
        """At most `most` bytes, at least 1; more are lost. Raises InvalidRequest for what is not this encoding."""
        if not data:
            return b""
        if self._decompressor is None:
            self._decompressor = self._make(data)
        if self._decompressor.eof:
            raise self._invalid()
        try:
            decoded = self._decompressor.decompress(data, most)
        except Exception as error:  # zlib.error, ZstdError
            raise self._invalid() from error
        if self._decompressor.unused_data:
            raise self._invalid()
        return decoded

    def finish(self) -> None:
        """Raises InvalidRequest when the stream has no end."""
        if self._decompressor is None or not self._decompressor.eof:
            raise self._invalid()

    def _invalid(self) -> InvalidRequest:
        return InvalidRequest(
            f"The request body is not valid {self._encoding}, which its Content-Encoding header says it is."
        )


def decoder_for(header: str) -> ContentDecoder | None:
    """The decoder for a Content-Encoding header, None for a plain body; raises InvalidRequest (415) for others."""
    encoding = header.strip().lower()
    if encoding in ("", "identity"):
        return None
    make = _DECOMPRESSORS.get(encoding.removeprefix("x-"))
    if make is None:
        raise InvalidRequest(
            f"Unsupported Content-Encoding header ({header[:100]}), expected gzip, deflate, zstd or identity.",
            status=415,
            headers={"accept-encoding": "gzip, deflate, zstd"},
        )
    return ContentDecoder(encoding, make)


def _gzip(data: bytes) -> Decompressor:
    return zlib.decompressobj(_GZIP)


def _deflate(data: bytes) -> Decompressor:
    """zlib's format as RFC 9110 says, or the bare stream, which some clients send."""
    return zlib.decompressobj(_ZLIB if data[0] & 0x0F == _ZLIB_METHOD else _RAW)


def _zstd(data: bytes) -> Decompressor:
    from backports.zstd import DecompressionParameter, ZstdDecompressor  # few clients need it

    decompressor: Decompressor = ZstdDecompressor(options={DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
    return decompressor


_DECOMPRESSORS: dict[str, Callable[[bytes], Decompressor]] = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd}
