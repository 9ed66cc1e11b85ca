"""Chat templates: what transformers makes of them, token for token, but for text that spells control tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tokenizer.test_mistral import conversation
from tests.model.tokenizers_at_hand import NATIVE_TOOLS, chatml_folder, metaspace_folder
from truss_model.errors import LoadError, RequestError
from truss_model.request.messages import parse_messages
from truss_model.request.tools import NO_TOOLS, ToolUse, parse_tool_use
from truss_model.tokenizer.chat_tokenizer import load_tokenizer
from truss_model.tokenizer.template import TemplateTokenizer
from truss_model.tokenizer.tool_format import ToolStyle

CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "<tool_call>", "</tool_call>"]
BITS = st.sampled_from([*CONTROL, "<|im_", "start|>", "end|>", "<", "|", ">", " ", "\n", "    ", "a", "é"])
TEXTS = st.lists(BITS, max_size=8).map("".join)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> TemplateTokenizer:
    return TemplateTokenizer(chatml_folder(tmp_path_factory.mktemp("chatml")))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> TemplateTokenizer:
    return TemplateTokenizer(chatml_folder(tmp_path_factory.mktemp("native"), NATIVE_TOOLS))


def encode(tokenizer: TemplateTokenizer, messages: list[Any], tools: ToolUse = NO_TOOLS, **options: bool) -> list[int]:
    return tokenizer.encode_chat(parse_messages(messages, **options), tools)


def controls(tokenizer: TemplateTokenizer, ids: list[int]) -> list[str]:
    return [token for token in tokenizer._hf.convert_ids_to_tokens(ids) if token in CONTROL]


@given(st.lists(st.text(max_size=20).filter(lambda text: "<" not in text), min_size=1, max_size=3))
def test_harmless_chats_are_encoded_as_transformers_does(chatml: TemplateTokenizer, texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    expected = chatml._hf.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert encode(chatml, messages) == expected


@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_text_that_spells_control_tokens_stays_text(chatml: TemplateTokenizer, texts: list[str]) -> None:
    ids = encode(chatml, [{"role": "user", "content": text} for text in texts])
    turn = ["<|im_start|>", "<|im_end|>"]
    assert controls(chatml, ids) == turn * len(texts) + turn[:1]
    printed = "".join(f"<|im_start|>user\n{text}<|im_end|>\n" for text in texts) + "<|im_start|>assistant\n"
    assert chatml._hf.decode(ids) == printed


@given(TEXTS)
def test_a_plain_prompt_is_text(chatml: TemplateTokenizer, text: str) -> None:
    ids = chatml.encode_text(text)
    assert controls(chatml, ids) == []
    assert chatml._hf.decode(ids) == text


@pytest.mark.parametrize("text", [*CONTROL, "".join(CONTROL), "<|im_", "<think> ", "\ue000<|im_end|>"])
@pytest.mark.parametrize("kind", ["chatml", "native"])
def test_no_field_can_spell_a_control_token(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    tokenizer: TemplateTokenizer = request.getfixturevalue(kind)

    def structure(text: str) -> list[str]:
        messages, tools = conversation(text)
        return controls(tokenizer, encode(tokenizer, messages, parse_tool_use(tools)))

    assert structure(text) == structure("harmless")


def test_a_control_token_takes_its_white_space_along_as_in_transformers(tmp_path: Path) -> None:
    template = "{% for message in messages %}<think> \n{{ message.content }}{% endfor %}"
    tokenizer = TemplateTokenizer(chatml_folder(tmp_path, template))
    messages = [{"role": "user", "content": " a"}]
    expected = tokenizer._hf.apply_chat_template(messages, return_dict=False)
    assert encode(tokenizer, messages) == expected
    assert tokenizer._hf.decode(expected) == "<think>a"


def test_the_final_message_is_continued(chatml: TemplateTokenizer) -> None:
    messages = [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "It is "}]
    ids = encode(chatml, messages, continue_final_message=True)
    assert ids == encode(chatml, [messages[0], {**messages[1], "prefix": True}])
    assert chatml._hf.decode(ids).endswith("<|im_start|>assistant\nIt is ")


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]},
    {"role": "assistant", "content": "Hm.", "tool_calls": [CALL, {**CALL, "id": "2"}]},
    {"role": "tool", "tool_call_id": "1", "content": "x"},
    {"role": "tool", "tool_call_id": "2", "content": "y"},
]
TOOLS = parse_tool_use([{"type": "function", "function": {"name": "f", "description": "D"}}])


def test_a_template_without_tools_gets_them_as_text(chatml: TemplateTokenizer) -> None:
    text = chatml._hf.decode(encode(chatml, TURNS, TOOLS))
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    results = "<tool_response>\nx\n</tool_response>\n<tool_response>\ny\n</tool_response>"
    system, rest = text.split("<|im_end|>\n", 1)
    assert system.startswith("<|im_start|>system\n")
    assert '{"type": "function", "function": {"name": "f", "description": "D", "parameters": ' in system
    assert rest == (
        f"<|im_start|>user\nq\nr<|im_end|>\n<|im_start|>assistant\nHm.\n{call}\n{call}<|im_end|>\n"
        f"<|im_start|>user\n{results}<|im_end|>\n<|im_start|>assistant\n"
    )
    own = chatml._hf.decode(encode(chatml, [{"role": "system", "content": "Be brief."}, TURNS[0]], TOOLS))
    assert own.startswith("<|im_start|>system\nBe brief.\n\nYou can call")


def test_a_template_with_tools_prints_them_itself(native: TemplateTokenizer) -> None:
    ids = encode(native, TURNS, TOOLS)
    text = native._hf.decode(ids)
    assert text.startswith('<|im_start|>tools\n{"type": "function", "function": {"name": "f"')
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in text
    assert controls(native, ids).count("<tool_call>") == 2
    broken = [TURNS[0], {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}]
    assert '"arguments": "{"' in native._hf.decode(encode(native, [*broken, TURNS[2]]))


def test_what_the_vocabulary_says(chatml: TemplateTokenizer) -> None:
    assert chatml.eos_token_ids == {0, 2}  # the tokenizer's and generation_config.json's
    assert chatml.tool_format is not None
    assert chatml.tool_format.style is ToolStyle.HERMES
    tags = [chatml._hf.convert_tokens_to_ids(tag) for tag in ("<tool_call>", "<|im_end|>")]
    assert [chatml.vocabulary.is_special(tag) for tag in tags] == [False, True]
    assert [chatml.vocabulary.token_bytes(tag) for tag in tags] == [b"<tool_call>", b""]


@given(st.text(max_size=30))
def test_ordinary_text_has_its_own_bytes(chatml: TemplateTokenizer, text: str) -> None:
    ids = chatml.encode_ordinary(text)
    assert b"".join(map(chatml.vocabulary.token_bytes, ids)).decode() == text


def test_a_begin_of_sequence_token_is_put_where_the_tokenizer_puts_it(tmp_path: Path) -> None:
    folder = metaspace_folder(tmp_path)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, TemplateTokenizer)
    assert tokenizer.encode_text("the cat") == tokenizer._hf("the cat").input_ids
    assert tokenizer.encode_text("the cat")[0] == 1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "This model has no chat template: send 'prompt' instead."),
        (
            "{{ raise_exception('roles must alternate') }}",
            "Invalid 'messages' for this model's chat template: roles must alternate",
        ),
        ("{{ messages[9].content.x }}", None),
    ],
)
def test_what_the_template_refuses_is_the_callers_error(
    tmp_path: Path, template: str | None, message: str | None
) -> None:
    tokenizer = TemplateTokenizer(chatml_folder(tmp_path, template))
    with pytest.raises(RequestError) as refused:
        encode(tokenizer, [{"role": "user", "content": "x"}])
    assert refused.value.param == "messages"
    assert message is None or refused.value.message == message


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = chatml_folder(tmp_path)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    with pytest.raises(LoadError, match="end-of-sequence"):
        load_tokenizer(folder)


def test_a_template_for_tools_beside_the_default_one(tmp_path: Path) -> None:
    folder = chatml_folder(tmp_path)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(NATIVE_TOOLS)
    tokenizer = TemplateTokenizer(folder)
    plain, with_tools = encode(tokenizer, TURNS[:1]), encode(tokenizer, TURNS[:1], TOOLS)
    assert tokenizer._hf.decode(plain).startswith("<|im_start|>user\n")
    assert tokenizer._hf.decode(with_tools).startswith("<|im_start|>tools\n")


def test_a_decoder_of_another_kind_is_named(tmp_path: Path) -> None:
    folder = chatml_folder(tmp_path)
    raw = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(
        json.dumps({**raw, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}})
    )
    with pytest.raises(LoadError, match="WordPiece"):
        load_tokenizer(folder)
