"""Tokens with log-probabilities -> OpenAI's entries: token, logprob, bytes, top_logprobs. Pure."""

from collections.abc import Sequence
from typing import Any

from truss_model.engine.generation import PromptScore
from truss_model.output.answer import ShownToken
from truss_model.output.detokenizer import TokenReader
from truss_model.tokenizer.vocabulary import Vocabulary

LOWEST = -9999.0  # what OpenAI writes for a probability of zero; JSON has no infinity


def logprob_entry(token: ShownToken, vocabulary: Vocabulary) -> dict[str, Any]:
    """The chosen token's bytes are those that it added to the content: all bytes together are the content."""
    own = vocabulary.token_bytes(token.token_id)
    # The leading space of an answer's first token is not text, so it is removed from its alternatives as well.
    without_space = token.token_id in vocabulary.space_marked and own == b" " + token.data
    alternatives = [
        _entry(_alternative(token_id, token, vocabulary, without_space), logprob)
        for token_id, logprob in token.logprob.top
    ]
    return {**_entry(token.data, token.logprob.logprob), "top_logprobs": alternatives}


def prompt_entries(
    prompt: Sequence[int], scores: Sequence[PromptScore], vocabulary: Vocabulary
) -> list[dict[str, Any]]:
    """One entry a prompt token: token, id, bytes, logprob, rank, top_logprobs; the first one's logprob is null.

    The bytes of all are the prompt's text, without SentencePiece's space before the first word.
    """
    reader = TokenReader(vocabulary)
    entries: list[dict[str, Any]] = []
    for token_id, score in zip(prompt, [None, *scores], strict=True):
        data = reader.read(token_id)
        without_space = data != vocabulary.token_bytes(token_id)
        entry = {**_named(token_id, data, vocabulary), "logprob": None, "rank": None, "top_logprobs": []}
        if score is not None:
            alternatives = []
            for other, logprob in score.top:
                own = vocabulary.token_bytes(other)
                shown = own[1:] if without_space and other in vocabulary.space_marked else own
                alternatives.append({**_named(other, shown, vocabulary), "logprob": max(logprob, LOWEST)})
            entry |= {"logprob": max(score.logprob, LOWEST), "rank": score.rank, "top_logprobs": alternatives}
        entries.append(entry)
    return entries


def _named(token_id: int, data: bytes, vocabulary: Vocabulary) -> dict[str, Any]:
    name = vocabulary.control_names.get(token_id)
    return {"token": data.decode(errors="replace") if name is None else name, "id": token_id, "bytes": list(data)}


def _alternative(token_id: int, chosen: ShownToken, vocabulary: Vocabulary, without_space: bool) -> bytes:
    if token_id == chosen.token_id:
        return chosen.data
    data = vocabulary.token_bytes(token_id)
    return data[1:] if without_space and token_id in vocabulary.space_marked else data


def _entry(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": data.decode(errors="replace"), "logprob": max(logprob, LOWEST), "bytes": list(data)}
