"""Tokens with log-probabilities -> OpenAI's entries: token, logprob, bytes, top_logprobs. Pure."""

from typing import Any

from truss_model.answer import ShownToken
from truss_model.vocabulary import Vocabulary

LOWEST = -9999.0  # what OpenAI writes for a probability of zero; JSON has no infinity


def logprob_entry(token: ShownToken, vocabulary: Vocabulary) -> dict[str, Any]:
    """The chosen token is told with the bytes that it added to the content: all bytes together are the content."""
    own = vocabulary.token_bytes(token.token_id)
    # The space of an answer's first token is no text: it is not told of the alternatives of that token either.
    without_space = token.token_id in vocabulary.space_marked and own == b" " + token.data
    alternatives = [
        _entry(_alternative(token_id, token, vocabulary, without_space), logprob)
        for token_id, logprob in token.logprob.top
    ]
    return {**_entry(token.data, token.logprob.logprob), "top_logprobs": alternatives}


def _alternative(token_id: int, chosen: ShownToken, vocabulary: Vocabulary, without_space: bool) -> bytes:
    if token_id == chosen.token_id:
        return chosen.data
    data = vocabulary.token_bytes(token_id)
    return data[1:] if without_space and token_id in vocabulary.space_marked else data


def _entry(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": data.decode(errors="replace"), "logprob": max(logprob, LOWEST), "bytes": list(data)}
