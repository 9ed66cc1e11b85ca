"""The tokenizer of the tiny model, which tests/conftest.py makes."""

from pathlib import Path

import pytest

from truss_model.tokenizer.chat_tokenizer import ChatTokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_mistral: Path) -> ChatTokenizer:
    return load_tokenizer(tiny_mistral)
