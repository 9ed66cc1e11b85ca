"""Compiles every kernel for a card, with the shapes of Mistral-7B; its own program, as the interpreter is off here.

Prints for each its registers' overflow into memory and its shared memory, as JSON.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from truss_model.engine.execution.cuda import (
    append,
    choose,
    decode,
    dequantize,
    draw,
    elementwise,
    fp8,
    logprobs,
    prefill,
    sampling,
    scores,
    vector,
)
from truss_model.engine.execution.cuda.attention import LARGE_SHARED_MEMORY
from truss_model.engine.execution.sampling import MOST_LOGPROBS
from truss_model.engine.execution.sampling_state import NUMBERS

POINTERS = {"tables": "*i32", "starts": "*i32", "contexts": "*i32", "positions": "*i32", "slots": "*i32",
            "sums": "*fp32", "parts": "*fp32", "scales": "*fp32"}  # fmt: skip
SAMPLING_POINTERS = {
    **dict.fromkeys(("numbers", "bias", "scores", "raw_sums", "own", "top"), "*fp32"), "uniform": "*fp64",
    **dict.fromkeys(("masks", "slots", "contexts", "mask_of", "counts", "near_keys", "near_ids", "seen"), "*i32"),
    **dict.fromkeys(("ends", "highest", "raw_highest", "sums", "near_shares", "tokens", "top_ids"), "*i64"),
    **dict.fromkeys(("end_count", "parts"), "i32"),
}  # fmt: skip
VOCABULARIES = (32768, 128256, 262144)
FLOATS = {"scale", "eps"}
INTEGERS = {"inputs", "tokens", "window"}
UNSPECIALIZED = {"window", "tokens", "table_row", "end_count", "parts"}
DECODE = {"HEADS": 32, "GROUP": 4, "QUERIES": 16, "DIM": 128, "PAGE": 16, "BLOCK": 64, "SPLITS": 8, "LEAST": 64}
NO_TERMS = {"SOFTCAP": 0.0, "SINKS": False}
TERMS = {"SOFTCAP": 50.0, "SINKS": True}
PREFILL = {"HEADS": 32, "GROUP": 4, "DIM": 128, "PAGE": 16}
WIDENING = {"OUTPUTS": 28672, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128}
FP8_SINCE = 89  # below, Triton has no such type
VECTOR = {"OUTPUTS": 4096, "BLOCK_N": 4, "BLOCK_K": 512, "STAGES": 4, "ADD": False, "SCALED": False}

Kernel = tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]
KERNELS: dict[str, Kernel] = {
    "decode": (
        decode._decode, {"out": "*fp32"}, {**DECODE, **NO_TERMS, "WINDOWED": False}, {"num_warps": 4, "num_stages": 3},
    ),
    "decode, window, terms": (
        decode._decode, {"out": "*fp32"}, {**DECODE, **TERMS, "WINDOWED": True}, {"num_warps": 4, "num_stages": 3},
    ),
    "join": (
        decode._join, {},
        {"HEADS": 32, "DIM": 128, "BLOCK": 64, "WINDOWED": False, "SPLITS": 64, "LEAST": 64, "SINKS": False}, {},
    ),
    "append": (
        append._append, {},
        {"HEADS": 32, "KV_HEADS": 8, "DIM": 128, "PAGE": 16, "BLOCK": 8, "ROTATE": True, "QUERY_BLOCKS": 4},
        {"num_warps": 1},
    ),
    "norm": (elementwise._rms_norm, {}, {"SIZE": 4096, "BLOCK": 4096}, {"num_warps": 8}),
    "gate": (elementwise._silu_mul, {}, {"SIZE": 14336, "BLOCK": 1024}, {}),
    "vector": (vector._multiply, {}, {**VECTOR, "NORM": True, "GATED": True}, {}),
    "vector, fp8": (vector._multiply, {"weight": "*fp8e4nv"}, {**VECTOR, "NORM": True, "GATED": True, "SCALED": True},
                    {}),
    "vector, int8": (vector._multiply, {"weight": "*i8"}, {**VECTOR, "NORM": True, "GATED": True, "SCALED": True}, {}),
    "widening, int8": (dequantize._scaled_matmul, {"weight": "*i8"}, WIDENING, {"num_warps": 4, "num_stages": 3}),
    "widening, fp8": (dequantize._scaled_matmul, {"weight": "*fp8e4nv"}, WIDENING, {"num_warps": 4, "num_stages": 3}),
    "quantise": (fp8._quantize, {"y": "*fp8e4nv"}, {"SIZE": 14336, "BLOCK": 16384}, {"num_warps": 8}),
}  # fmt: skip


def build(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any], card: int
) -> dict[str, int]:
    signature, attributes = {}, {}
    for at, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in FLOATS:
            signature[name] = "fp32"
        else:
            signature[name] = (
                types.get(name)
                or ("i32" if name in INTEGERS or name.endswith(("_row", "_head", "_stride")) else None)
                or POINTERS.get(name, "*bf16")
            )
            if name not in UNSPECIALIZED and not kernel.params[at].do_not_specialize_on_alignment:
                attributes[at,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"STACK:(\d+).*LOCAL:(\d+)", usage)
    assert found is not None, usage
    return {"overflow": int(found[1]) + int(found[2]), "shared": made.metadata.shared}


def kernels_for(card: int) -> dict[str, Kernel]:
    queries, keys, warps, stages = prefill.tile((card // 10, card % 10) in LARGE_SHARED_MEMORY, 2, PREFILL["DIM"])
    tile, options = {"BLOCK_M": queries, "BLOCK_N": keys}, {"num_warps": warps, "num_stages": stages}
    made = {
        name: kernel for name, kernel in KERNELS.items() if card >= FP8_SINCE or "*fp8e4nv" not in kernel[1].values()
    }
    made["prefill"] = prefill._prefill, {}, {**PREFILL, **tile, **NO_TERMS, "WINDOWED": False}, options
    for what, type_, size in (("256 dimensions", "*bf16", 2), ("256 dimensions, float32", "*fp32", 4)):
        types = dict.fromkeys(("query", "keys", "values", "sinks"), type_)
        shape = {**DECODE, **NO_TERMS, "DIM": 256, "BLOCK": decode.block_for(256, size), "WINDOWED": True}
        made[f"decode, {what}"] = decode._decode, {**types, "out": "*fp32"}, shape, {"num_warps": 4, "num_stages": 3}
        block_m, block_n, *chosen = prefill.tile((card // 10, card % 10) in LARGE_SHARED_MEMORY, size, 256)
        shape = {**PREFILL, **NO_TERMS, "DIM": 256, "BLOCK_M": block_m, "BLOCK_N": block_n, "WINDOWED": True}
        options_ = dict(zip(("num_warps", "num_stages"), chosen, strict=True))
        made[f"prefill, {what}"] = prefill._prefill, {**types, "out": type_}, shape, options_
    for vocab in VOCABULARIES:
        made |= {f"{name}, {vocab}": kernel for name, kernel in sampling_kernels(vocab).items()}
    made["prefill, terms"] = prefill._prefill, {}, {**PREFILL, **tile, **TERMS, "WINDOWED": True}, options
    return made


def sampling_kernels(vocab: int) -> dict[str, Kernel]:
    block = sampling.block_for(vocab)
    shape = {
        "VOCAB": vocab,
        "NUMBERS": len(NUMBERS),
        "BLOCK": block,
        "PARTS": triton.next_power_of_2(-(-vocab // block)),
    }
    scored = {"VOCAB": vocab, "WORDS": -(-vocab // 32), "NUMBERS": len(NUMBERS), "BLOCK": block}
    warps = {"num_warps": sampling.warps_for(block)}
    exact = {**warps, "enable_fp_fusion": False}
    return {
        "score": (scores.score, SAMPLING_POINTERS, {**scored, "ALL": True}, exact),
        "score, draws": (scores.score, SAMPLING_POINTERS, {**scored, "ALL": False}, exact),
        "measure": (draw.measure, SAMPLING_POINTERS, shape, warps),
        "gather": (draw.gather, SAMPLING_POINTERS, shape, warps),
        "choose": (choose.choose, SAMPLING_POINTERS, {**shape, "BLOCK": sampling.NEAR}, {"num_warps": 8}),
        "logprobs": (logprobs.logprobs, SAMPLING_POINTERS, {**shape, "MOST": MOST_LOGPROBS}, {}),
    }


if __name__ == "__main__":
    target = int(sys.argv[1])
    print(json.dumps({name: build(*kernel, card=target) for name, kernel in kernels_for(target).items()}))
