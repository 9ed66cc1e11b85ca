"""What a tokenizer's ids stand for as bytes, read once from its files. Knows nothing of chats, and encodes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The bytes of every token, and the three rules by which vendors turn them into text.

    tokens: bytes by id; b"" for control tokens, which are never text.
    special_ids: the control tokens.
    space_marked: SentencePiece ids that begin with the space mark; the space of an answer's first one is no text.
    replace_each_byte: a bad byte is one U+FFFD each (SentencePiece), not one for a maximal wrong sequence (all others).
    breaks_at_special: a control token ends a character that is not complete yet.
    """

    tokens: Sequence[bytes]
    special_ids: frozenset[int]
    space_marked: frozenset[int] = field(default=frozenset())
    replace_each_byte: bool = False
    breaks_at_special: bool = True

    def __len__(self) -> int:
        return len(self.tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The token's bytes wherever it stands but first; b"" for control tokens and for ids the tokenizer lacks."""
        return self.tokens[token_id] if 0 <= token_id < len(self.tokens) else b""

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special_ids or not 0 <= token_id < len(self.tokens)
