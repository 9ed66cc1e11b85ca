"""Log-probabilities over the wire are those of a plain transformers forward, and belong to the text beside them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from openai import OpenAI
from transformers import MistralForCausalLM

LENGTH = 12
CONTROL_TOKENS = 771  # the first ids of the v3 tokenizer; they are no text, so they are not shown
BODY: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Say something."}],
    "max_tokens": LENGTH,
    "seed": 5,
    "logprobs": True,
    "top_logprobs": 20,
}


@pytest.fixture(scope="module")
def plain(tiny_mistral: Path) -> Any:
    return MistralForCausalLM.from_pretrained(tiny_mistral, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_mistral: Path) -> Any:
    return MistralTokenizer.from_file(str(tiny_mistral / "tokenizer.model.v3")).instruct_tokenizer.tokenizer


def content(tokens: Any) -> bytes:
    return b"".join(bytes(token.bytes) for token in tokens)


def test_they_equal_a_plain_forward(client: OpenAI, plain: Any, tokenizer: Any) -> None:
    """At any temperature, and whatever was done to the draw: they are the model's own. The ids come by a bias."""
    drawn = [1234, 5678, 9012, 20000]
    prompt = [1, *tokenizer.encode("Once upon a time", bos=False, eos=False)]
    ids, told = list(prompt), []
    for token_id in drawn:
        answer = client.completions.create(
            model="tiny", prompt=ids, max_tokens=1, logprobs=5, logit_bias={str(token_id): 100}, temperature=0.7
        )
        assert answer.choices[0].logprobs is not None
        told.append(answer.choices[0].logprobs)
        ids.append(token_id)
    with torch.no_grad():
        forward = torch.log_softmax(plain(torch.tensor([ids])).logits[0].double(), -1)
    for step, (token_id, logprobs) in enumerate(zip(drawn, told, strict=True)):
        own = forward[len(prompt) + step - 1]
        assert logprobs.token_logprobs == pytest.approx([float(own[token_id])], abs=1e-4)
        (alternatives,) = logprobs.top_logprobs or []
        assert max(alternatives.values()) == pytest.approx(float(own.max()), abs=1e-4)


def test_of_a_whole_chat_answer(client: OpenAI, plain: Any) -> None:
    answer = client.chat.completions.create(**{**BODY, "temperature": 0})
    tokens = answer.choices[0].logprobs and answer.choices[0].logprobs.content
    assert tokens is not None
    request: Any = ChatCompletionRequest(messages=[UserMessage(content="Say something.")])
    prompt = torch.tensor([MistralTokenizer.v3().encode_chat_completion(request).tokens])
    made = plain.generate(prompt, max_new_tokens=LENGTH, do_sample=False, attention_mask=torch.ones_like(prompt))
    with torch.no_grad():
        forward = torch.log_softmax(plain(made).logits[0].double(), -1)
    shown = [step for step in range(prompt.shape[1], made.shape[1]) if made[0, step] >= CONTROL_TOKENS]
    assert len(shown) > 4
    for step, token in zip(shown, tokens, strict=True):
        own = forward[step - 1]
        assert token.logprob == pytest.approx(float(own[made[0, step]]), abs=1e-4)
        best = [top.logprob for top in token.top_logprobs]
        assert best == pytest.approx(own.topk(20).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("change", [{}, {"stop": True}, {"n": 3}, {"temperature": 2, "seed": 9}])
def test_all_bytes_together_are_the_content(client: OpenAI, change: dict[str, Any]) -> None:
    body = {**BODY, "top_logprobs": 1, **change}
    if "stop" in change:  # within a token, most likely
        text = client.chat.completions.create(**BODY).choices[0].message.content or ""
        body["stop"] = text[len(text) // 2 :][:2]
    answer = client.chat.completions.create(**body)
    whole = [(choice.message.content, choice.logprobs and choice.logprobs.content) for choice in answer.choices]
    streamed: list[tuple[str, list[Any]]] = [("", []) for _ in whole]
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            text, tokens = streamed[choice.index]
            shown = (choice.logprobs and choice.logprobs.content) or []
            if choice.delta.content and "\ufffd" not in choice.delta.content:
                assert content(shown).decode() == choice.delta.content
            streamed[choice.index] = (text + (choice.delta.content or ""), tokens + shown)
    assert streamed == whole
    for text, tokens in whole:
        assert tokens and content(tokens).decode(errors="replace") == text
