"""Tokenizers that need no network: the vendor's own files, and small ones of other families made on the spot."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import mistral_common
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from truss_model.request.messages import Message
from truss_model.request.tools import NO_TOOLS, ToolUse
from truss_model.tokenizer.mistral import MistralTokenizer
from truss_model.tokenizer.tool_format import ToolFormat
from truss_model.tokenizer.vocabulary import Vocabulary

VENDOR_FILES = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
    "tekken": "tekken_240718.json",
}
CHATML = """\
{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
NATIVE_TOOLS = """\
{% if tools %}<|im_start|>tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TEXT = (
    'the cat sat on the mat, and the dog ran to it: {"name": "x"} \'I\'m here\' said the quick brown fox. été 日本 🙂\n'
)


def vendor_file(version: str) -> Path:
    return Path(mistral_common.__file__).parent / "data" / VENDOR_FILES[version]


@cache
def mistral(version: str) -> MistralTokenizer:
    return MistralTokenizer(vendor_file(version))


def chatml_folder(folder: Path, template: str | None = CHATML) -> Path:
    """A byte-level BPE tokenizer as a hub folder; `<think>` takes the white space after it along, as some do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken("<think>", rstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken("<tool_call>"), AddedToken("</tool_call>"), AddedToken("    ", normalized=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    fast.save_pretrained(str(folder))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    return folder


def metaspace_folder(folder: Path) -> Path:
    """A tokenizer.json in SentencePiece's manner: space marks and byte fallback."""
    words = ["▁", "▁the", "▁cat", "the", "cat", "a", "t", "h", "e", "c", "s", "."]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("▁", "the"), ("▁", "cat")]
    pieces += [piece for piece in ("th", "ca") if piece not in pieces]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(str(folder))
    return folder


@dataclass(frozen=True)
class SpelledTokenizer:
    """A `ChatTokenizer` whose tokens are given by the test: `spelling[id]` are the bytes, None is a control token."""

    spelling: Sequence[bytes | None]
    tool_format: ToolFormat | None = None
    eos_token_ids: frozenset[int] = field(default=frozenset())
    continues_last_answer: bool = False

    @property
    def vocab_size(self) -> int:
        return len(self.spelling)

    @property
    def vocabulary(self) -> Vocabulary:
        special = frozenset(index for index, data in enumerate(self.spelling) if data is None)
        return Vocabulary([data or b"" for data in self.spelling], special)

    def encode_chat(self, turns: Sequence[Message], tools: ToolUse = NO_TOOLS) -> list[int]:
        raise NotImplementedError("its tests make ids themselves")

    def encode_text(self, text: str) -> list[int]:
        return self.encode_ordinary(text)

    def encode_ordinary(self, text: str) -> list[int]:
        raise NotImplementedError("its tests make ids themselves")
