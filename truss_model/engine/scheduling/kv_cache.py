"""Pages of the KV cache: their reference counts, the tokens in them, the prefix index. Knows no tensors.

A page holds `page_size` tokens of every layer. Pages without references keep their content and are found again by the
tokens they hold and all tokens before them, until they are needed (least recently used first).
"""

import hashlib
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

ROOT = b""
SIBLINGS_LOOKED_AT = 32  # a system prompt may have thousands of continuations; the newest are the likeliest


class OutOfPages(Exception):
    """Every page is held by a running row."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The cached part of a prompt: whole pages to share, and a page whose first `partial` tokens are copied."""

    pages: list[int]
    digest: bytes
    source: int | None = None
    partial: int = 0


@dataclass(frozen=True, slots=True)
class Content:
    """A published page: the digest of all tokens before it, and its own tokens (fewer than page_size: a row's tail)."""

    parent: bytes
    tokens: "array[int]"
    digest: bytes | None


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Digest of a page and all before it. Cryptographic: a prompt cannot be crafted to match another's pages."""
    return hashlib.blake2b(parent + array("i", tokens).tobytes(), digest_size=16).digest()


class PagePool:
    """Reference counts, free list and prefix index of `pages` pages. One thread only."""

    def __init__(self, pages: int, page_size: int, *, prefix_caching: bool = True) -> None:
        self.pages = pages
        self.page_size = page_size
        self.prefix_caching = prefix_caching
        self._free = deque(range(pages))
        self._held = [0] * pages
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._by_digest: dict[bytes, int] = {}
        self._content: dict[int, Content] = {}
        self._children: defaultdict[bytes, OrderedDict[int, None]] = defaultdict(OrderedDict)

    @property
    def available(self) -> int:
        """Number of pages without references, with or without content worth keeping."""
        return len(self._free) + len(self._idle)

    def allocate(self) -> int:
        """Take a page; its content is lost. Raises OutOfPages."""
        if self._free:
            page = self._free.popleft()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        else:
            raise OutOfPages
        self._held[page] = 1
        return page

    def hold(self, page: int) -> None:
        if self._held[page] == 0:
            del self._idle[page]
        self._held[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Drop references, last page first, so that the end of a conversation is evicted before its beginning."""
        for page in reversed(pages):
            self._held[page] -= 1
            if self._held[page] == 0:
                if page in self._content:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def match(self, tokens: Sequence[int]) -> Prefix:
        """Find and hold the longest known prefix of `tokens`, short of the last one (its logits must be computed).

        A partial page is not held: the caller copies it at the start of the very next step.
        """
        found: list[int] = []
        digest, size = ROOT, self.page_size
        if not self.prefix_caching:
            return Prefix(found, digest)
        usable = len(tokens) - 1
        while (len(found) + 1) * size <= usable:
            deeper = chain(digest, tokens[len(found) * size : (len(found) + 1) * size])
            page = self._by_digest.get(deeper)
            if page is None:
                break
            digest = deeper
            found.append(page)
        for page in found:
            self.hold(page)
        source, partial = self._longest_child(digest, tokens[len(found) * size : min(usable, (len(found) + 1) * size)])
        return Prefix(found, digest, source, partial)

    def publish(self, page: int, parent: bytes, tokens: Sequence[int]) -> bytes:
        """Add a page to the prefix index; returns the digest of a whole one. Its content must not change again.

        Content that another page already holds is not added twice: that page is marked as used instead.
        """
        whole = len(tokens) == self.page_size
        digest = chain(parent, tokens) if whole else ROOT
        if not self.prefix_caching or page in self._content:
            return digest
        twin = self._by_digest.get(digest) if whole else self._holder(parent, tokens)
        if twin is None:
            self._content[page] = Content(parent, array("i", tokens), digest if whole else None)
            self._children[parent][page] = None
            if whole:
                self._by_digest[digest] = page
        elif twin in self._idle:
            self._idle.move_to_end(twin)
        return digest

    def _holder(self, parent: bytes, tokens: Sequence[int]) -> int | None:
        page, length = self._longest_child(parent, tokens)
        return page if length == len(tokens) else None

    def _longest_child(self, parent: bytes, tokens: Sequence[int]) -> tuple[int | None, int]:
        best, longest = None, 0
        for page in islice(reversed(self._children.get(parent, ())), SIBLINGS_LOOKED_AT):
            length = 0
            for ours, theirs in zip(tokens, self._content[page].tokens, strict=False):
                if ours != theirs:
                    break
                length += 1
            if length > longest:
                best, longest = page, length
        return best, longest

    def _forget(self, page: int) -> None:
        content = self._content.pop(page)
        siblings = self._children[content.parent]
        del siblings[page]
        if not siblings:
            del self._children[content.parent]
        if content.digest is not None:
            del self._by_digest[content.digest]
