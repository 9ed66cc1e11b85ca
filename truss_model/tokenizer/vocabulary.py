"""The bytes of a tokenizer's ids, read once from its files. Knows no chats, and encodes nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from truss_model.errors import LoadError

SPACE_MARK = "\u2581"  # SentencePiece's sign for a space


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The bytes of every token, and the three rules by which vendors turn them into text.

    tokens: bytes by id; b"" for control tokens, which are never text.
    special_ids: the control tokens.
    space_marked: SentencePiece ids that begin with the space mark; the space of an answer's first one is not text.
    control_names: how the vendor spells each control token; not text.
    replace_each_byte: each invalid byte becomes one U+FFFD (SentencePiece), else each maximal invalid sequence does.
    breaks_at_special: a control token ends an incomplete character.
    """

    tokens: Sequence[bytes]
    special_ids: frozenset[int]
    space_marked: frozenset[int] = field(default=frozenset())
    replace_each_byte: bool = False
    breaks_at_special: bool = True
    control_names: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The token's bytes, unless it is an answer's first; b"" for control tokens and for unknown ids."""
        return self.tokens[token_id] if 0 <= token_id < len(self.tokens) else b""

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special_ids or not 0 <= token_id < len(self.tokens)


def from_tokenizer_json(raw: Mapping[str, Any], *, text_tokens: Collection[str]) -> Vocabulary:
    """The vocabulary of a parsed tokenizer.json (byte-level BPE, or SentencePiece's marks with byte fallback).

    Special tokens named in `text_tokens` count as text. Raises LoadError for a decoder of another kind.
    """
    byte_level = _decoder_kinds(raw.get("decoder"))
    pieces = pieces_by_id(raw["model"]["vocab"])
    special: set[int] = set()
    literal: dict[int, bytes] = {}
    for token in raw["added_tokens"]:
        index, content = int(token["id"]), str(token["content"])
        pieces[index] = content
        if token["special"] and content not in text_tokens:
            special.add(index)
        elif not byte_level:
            literal[index] = content.encode()
    tokens = [b""] * (max(pieces) + 1)
    marked: set[int] = set()
    for index, piece in pieces.items():
        if index in special:
            continue
        if byte_level:
            tokens[index] = _byte_level(piece)
        else:
            tokens[index] = literal.get(index) or sentencepiece_bytes(piece)
            if index not in literal and piece.startswith(SPACE_MARK):
                marked.add(index)
    missing = set(range(len(tokens))) - pieces.keys()
    return Vocabulary(
        tokens,
        frozenset(special | missing),
        frozenset(marked),
        replace_each_byte=not byte_level,
        breaks_at_special=False,
        control_names={index: pieces[index] for index in special},
    )


def sentencepiece_bytes(piece: str) -> bytes:
    """A piece such as `▁the` or `<0x0A>`."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE_MARK, " ").encode()


def _decoder_kinds(decoder: Mapping[str, Any] | None) -> bool:
    """True for byte-level BPE, False for SentencePiece's marks."""
    kinds = [part["type"] for part in (decoder or {}).get("decoders", [decoder or {"type": "none"}])]
    if kinds == ["ByteLevel"]:
        return True
    if kinds == ["Metaspace"] or (kinds and kinds[0] == "Replace" and "ByteFallback" in kinds):
        return False
    raise LoadError(f"tokenizer.json has a decoder of the kind {kinds}; ByteLevel or ByteFallback is needed.")


def pieces_by_id(vocab: object) -> dict[int, str]:
    if isinstance(vocab, Mapping):
        return {int(index): str(piece) for piece, index in vocab.items()}
    if isinstance(vocab, Sequence):  # Unigram: [piece, score] by id
        return {index: str(entry[0]) for index, entry in enumerate(vocab)}
    raise LoadError("tokenizer.json has no vocabulary.")


def _byte_level(piece: str) -> bytes:
    """GPT-2's alphabet of one printable character a byte; a piece with any other character is plain text."""
    return piece.translate(_BYTE_OF).encode("latin-1") if _ALPHABET.issuperset(piece) else piece.encode()


def _byte_level_alphabet() -> dict[int, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + n: byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()  # by code point
_ALPHABET = frozenset(map(chr, _BYTE_OF))
