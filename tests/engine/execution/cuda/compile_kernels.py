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

from truss_model.engine.execution.cuda import append, decode, dequantize, elementwise, fp8, prefill, vector
from truss_model.engine.execution.cuda.attention import LARGE_SHARED_MEMORY

POINTERS = {"tables": "*i32", "starts": "*i32", "contexts": "*i32", "positions": "*i32", "slots": "*i32",
            "sums": "*fp32", "parts": "*fp32", "scales": "*fp32"}  # fmt: skip
FLOATS = {"scale", "eps"}
UNSPECIALIZED = {"window", "tokens", "table_row"}
DECODE = {"HEADS": 32, "GROUP": 4, "QUERIES": 16, "DIM": 128, "PAGE": 16, "BLOCK": 64, "SPLITS": 8, "LEAST": 64}
NO_TERMS = {"SOFTCAP": 0.0, "SINKS": False}
TERMS = {"SOFTCAP": 50.0, "SINKS": True}
PREFILL = {"HEADS": 32, "GROUP": 4, "DIM": 128, "PAGE": 16}
WIDENING = {"OUTPUTS": 28672, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128}
FP8_SINCE = 89  # below, Triton has no such type
VECTOR = {"OUTPUTS": 4096, "BLOCK_N": 4, "BLOCK_K": 512, "STAGES": 4, "ADD": False, "SCALED": False}

KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]] = {
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
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, int], card: int
) -> dict[str, int]:
    signature, attributes = {}, {}
    for at, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in FLOATS:
            signature[name] = "fp32"
        else:
            signature[name] = (
                "i32"
                if name in {"inputs", "tokens", "window"} or name.endswith(("_row", "_head", "_stride"))
                else types.get(name) or POINTERS.get(name, "*bf16")
            )
            if name not in UNSPECIALIZED:
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


def kernels_for(card: int) -> dict[str, tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
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
    made["prefill, terms"] = prefill._prefill, {}, {**PREFILL, **tile, **TERMS, "WINDOWED": True}, options
    return made


if __name__ == "__main__":
    target = int(sys.argv[1])
    print(json.dumps({name: build(*kernel, card=target) for name, kernel in kernels_for(target).items()}))
