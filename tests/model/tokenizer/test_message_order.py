"""Every order of roles on both kinds of tokenizer: what one accepts the other accepts."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.model.tokenizers_at_hand import chatml_folder, mistral
from truss_model.errors import RequestError
from truss_model.request.messages import Message, parse_messages
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer
from truss_model.tokenizer.template import TemplateTokenizer

CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TURNS: dict[str, dict[str, Any]] = {
    "S": {"role": "system", "content": "rule"},
    "U": {"role": "user", "content": "ask"},
    "A": {"role": "assistant", "content": "say"},
    "E": {"role": "assistant", "content": ""},
    "C": {"role": "assistant", "content": None, "tool_calls": [CALL]},
    "T": {"role": "tool", "tool_call_id": "abcdefghi", "content": "found"},
}
SPELLING = {1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[CALLS]", 8: "[RESULT]", 9: "[/RESULT]"}  # of v3


def turns_of(order: str, tokenizer: ChatTokenizer) -> list[Message]:
    always = tokenizer.continues_last_answer
    return parse_messages([TURNS[letter] for letter in order], continues_last_answer=always)


def text_of(order: str) -> str:
    tokenizer = mistral("v3")
    ids = tokenizer.encode_chat(turns_of(order, tokenizer))
    return "".join(SPELLING.get(id_) or tokenizer.vocabulary.token_bytes(id_).decode() for id_ in ids)


@pytest.mark.parametrize("version", ["v1", "v3", "v7", "tekken"])
def test_no_order_of_roles_is_refused_by_mistral_that_a_template_takes(version: str, tmp_path: Path) -> None:
    template, reference = TemplateTokenizer(chatml_folder(tmp_path)), mistral(version)
    accepted = 0
    for length in range(1, 5):
        for order in map("".join, product("SUAE" if version == "v1" else "SUAECT", repeat=length)):
            try:
                turns = turns_of(order, template)
            except RequestError:
                continue  # not a chat, whatever the model: a call without its result
            accepted += 1
            assert template.encode_chat(turns), order
            assert reference.encode_chat(turns_of(order, reference)), order
    assert accepted == (340 if version == "v1" else 398)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("USU", "<s>[INST] ask[/INST][INST] rule\n\nask[/INST]"),  # as the reference does
        ("UASU", "<s>[INST] ask[/INST] say</s>[INST] rule\n\nask[/INST]"),
        ("UAS", "<s>[INST] ask[/INST] say</s>[INST] rule[/INST]"),
        ("UASAU", "<s>[INST] ask[/INST] say</s>[INST] rule[/INST] say</s>[INST] ask[/INST]"),
        ("SUASSU", "<s>[INST] ask[/INST] say</s>[INST] rule\n\nrule\n\nrule\n\nask[/INST]"),
        ("UA", "<s>[INST] ask[/INST] say"),
        ("A", "<s>[INST][/INST] say"),
    ],
)
def test_mistrals_prompt_for_an_order(order: str, expected: str) -> None:
    assert text_of(order) == expected


def test_a_system_turn_behind_a_result_is_the_next_user_turn() -> None:
    assert text_of("UCTS").endswith("[/RESULT][INST] rule[/INST]")
    assert text_of("UCTSU").endswith("[/RESULT][INST] rule\n\nask[/INST]")


def test_a_last_answer_is_continued_by_mistral_and_answered_anew_by_a_template(tmp_path: Path) -> None:
    template = TemplateTokenizer(chatml_folder(tmp_path))
    assert turns_of("UA", mistral("v3"))[-1].prefix
    assert not turns_of("UE", mistral("v3"))[-1].prefix  # nothing to continue
    assert not turns_of("UA", template)[-1].prefix
