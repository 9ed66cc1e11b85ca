"""Pure machines: token bytes -> text that can no longer change: whole characters, free of stop strings."""

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from truss_model.engine.generation import TokenLogprob
from truss_model.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Piece:
    """A generated token, or a part of one, with its bytes. No bytes: a control token."""

    token_id: int
    data: bytes
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token and the bytes of the content that are its own; all tokens' bytes together are the content."""

    token_id: int
    data: bytes
    logprob: TokenLogprob


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Content that can no longer change, in whole tokens; `tokens` only if their logprobs are known."""

    text: str
    tokens: tuple[ShownToken, ...] = ()


class TokenReader:
    """Token ids -> their bytes as text of one answer, without SentencePiece's space before the first word."""

    def __init__(self, vocabulary: Vocabulary, *, continues_text: bool = False) -> None:
        self._vocabulary = vocabulary
        self._tokens = vocabulary.tokens
        self._at_start = not continues_text

    def read(self, token_id: int) -> bytes:
        data = self._vocabulary.token_bytes(token_id)
        if self._at_start and not self._vocabulary.is_special(token_id):
            self._at_start = False
            return data[1:] if token_id in self._vocabulary.space_marked else data
        return data

    def read_text(self, token_ids: Sequence[int]) -> bytes | None:
        """The bytes of several tokens; None at an answer's start and where a control token is among them."""
        tokens = self._tokens
        if self._at_start:
            return None
        parts = [tokens[token_id] if 0 <= token_id < len(tokens) else b"" for token_id in token_ids]
        return b"".join(parts) if all(parts) else None


class Utf8Decoder:
    """Bytes, cut anywhere -> text; invalid UTF-8 becomes U+FFFD, by the rule of `Vocabulary.replace_each_byte`."""

    def __init__(self, *, replace_each_byte: bool = False) -> None:
        errors = _EACH_BYTE if replace_each_byte else "replace"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    @property
    def complete(self) -> bool:
        """Whether all bytes so far are in the text returned so far."""
        return not self.incomplete

    def decode(self, data: bytes) -> str:
        return self._decoder.decode(data)

    @property
    def incomplete(self) -> int:
        """Number of the last bytes that are the beginning of a character."""
        return len(self._decoder.getstate()[0])

    def drop(self) -> None:
        """End here, without the beginning of a character."""
        self._decoder.reset()

    def flush(self) -> str:
        """End here: an incomplete character becomes U+FFFD; the next bytes begin a new one."""
        text = self._decoder.decode(b"", True)
        self._decoder.reset()
        return text


class StopScanner:
    """Finds the stop string that ends first, wherever the bytes are cut; of those that end together, the longest.

    UTF-8 text contains a string exactly where its bytes contain the string's bytes, so it works on bytes. One step of
    the Knuth-Morris-Pratt automaton a byte and stop string: the cost does not depend on their length.
    """

    def __init__(self, stop: Iterable[str]) -> None:
        self._stops = [(text.encode(), _borders(text.encode())) for text in stop if text]
        self._matched = [0] * len(self._stops)

    @property
    def held(self) -> int:
        """How many of the last bytes may still become part of a stop string."""
        return max(self._matched, default=0)

    def scan(self, data: bytes) -> tuple[int, int] | None:
        """(where in `data` the stop string ends, its length in bytes); None if there is none."""
        for position, byte in enumerate(data if self._stops else b""):
            found = 0
            for number, (stop, borders) in enumerate(self._stops):
                length = self._matched[number]
                while length and stop[length] != byte:
                    length = borders[length - 1]
                if stop[length] == byte:
                    length += 1
                if length == len(stop):  # nothing is scanned after this
                    found, length = max(found, length), 0
                self._matched[number] = length
            if found:
                return position + 1, found
        return None

    def reset(self) -> None:
        self._matched = [0] * len(self._stops)


class TextStream:
    """Pieces of content -> deltas, each to where a token and a character end and no stop string can have begun."""

    def __init__(self, stop: Sequence[str] = (), *, vocabulary: Vocabulary) -> None:
        self.stopped = False
        self._scanner = StopScanner(stop)
        self._decoder = Utf8Decoder(replace_each_byte=vocabulary.replace_each_byte)
        self._breaks_at_special = vocabulary.breaks_at_special
        self._pending: deque[Piece] = deque()
        self._pending_bytes = 0
        self._text = ""  # decoded, of _tokens, whose last one has not completed its character
        self._tokens: list[Piece] = []

    def add(self, piece: Piece) -> list[TextDelta]:
        if self.stopped:
            return []
        self._pending.append(piece)
        match = self._scanner.scan(piece.data)
        if match is not None:
            end, length = match
            self.stopped = True
            return self._release(self._pending_bytes + end - length, last=True)
        self._pending_bytes += len(piece.data)
        return self._release(self._pending_bytes - self._scanner.held)

    def decode(self, data: bytes) -> str:
        """Text of tokens whose logprobs nobody wants, where there are no stop strings: whole characters."""
        text, self._text = self._text + self._decoder.decode(data), ""
        return text

    def flush(self, *, cut: bool = False) -> list[TextDelta]:
        """Everything that is held back: no stop string and no character continues after this.

        cut: the beginning of a character is left out rather than shown as U+FFFD.
        """
        self._scanner.reset()
        return self._release(self._pending_bytes, last=True, cut=cut)

    def _release(self, limit: int, *, last: bool = False, cut: bool = False) -> list[TextDelta]:
        """Decode the first `limit` pending bytes: whole pieces, and with `last` a part of one."""
        while self._pending and (len(self._pending[0].data) <= limit or last):
            piece = self._pending.popleft()
            self._pending_bytes -= len(piece.data)
            shown = replace(piece, data=piece.data[:limit]) if len(piece.data) > limit else piece
            limit -= len(shown.data)
            if shown.data:
                self._text += self._decoder.decode(shown.data)
                self._tokens.append(shown)
            elif not piece.data and self._breaks_at_special:
                self._text += self._decoder.flush()
        if cut:
            self._drop_incomplete()
        if last:
            self._text += self._decoder.flush()
        return self._take() if self._decoder.complete and self._text else []

    def _drop_incomplete(self) -> None:
        left = self._decoder.incomplete
        self._decoder.drop()
        while left and self._tokens:
            piece = self._tokens.pop()
            if len(piece.data) > left:
                self._tokens.append(replace(piece, data=piece.data[:-left]))
            left -= min(left, len(piece.data))

    def _take(self) -> list[TextDelta]:
        tokens = tuple(ShownToken(p.token_id, p.data, p.logprob) for p in self._tokens if p.logprob is not None)
        delta = TextDelta(self._text, tokens)
        self._text, self._tokens = "", []
        return [delta]


def _borders(data: bytes) -> list[int]:
    """For each prefix the length of its longest proper prefix that also ends it."""
    borders = [0] * len(data)
    length = 0
    for index in range(1, len(data)):
        while length and data[index] != data[length]:
            length = borders[length - 1]
        if data[index] == data[length]:
            length += 1
        borders[index] = length
    return borders


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


_EACH_BYTE = "truss_model.replace_each_byte"
codecs.register_error(_EACH_BYTE, _replace_each_byte)
