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

from truss_model.engine.cuda import append, decode, elementwise, fp8, prefill, vector

POINTERS = {"tables": "*i32", "starts": "*i32", "contexts": "*i32", "positions": "*i32", "slots": "*i32",
            "sums": "*fp32", "parts": "*fp32", "scales": "*fp32"}  # fmt: skip
FLOATS = {"scale", "eps"}
DECODE = {"HEADS": 32, "GROUP": 4, "QUERIES": 16, "DIM": 128, "PAGE": 16, "BLOCK": 64, "SPLITS": 8, "LEAST": 64}
PREFILL = {"HEADS": 32, "GROUP": 4, "DIM": 128, "PAGE": 16, "BLOCK_M": 128, "BLOCK_N": 64}
VECTOR = {"OUTPUTS": 4096, "BLOCK_N": 4, "BLOCK_K": 512, "STAGES": 4, "ADD": False, "SCALED": False}

KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]] = {
    "decode": (decode._decode, {"out": "*fp32"}, {**DECODE, "WINDOW": 0}, {"num_warps": 4, "num_stages": 3}),
    "decode, window": (decode._decode, {"out": "*fp32"}, {**DECODE, "WINDOW": 4096}, {"num_warps": 4, "num_stages": 3}),
    "join": (decode._join, {}, {"HEADS": 32, "DIM": 128, "BLOCK": 64, "WINDOW": 0, "SPLITS": 64, "LEAST": 64}, {}),
    "prefill": (prefill._prefill, {}, {**PREFILL, "WINDOW": 0}, {"num_warps": 8, "num_stages": 3}),
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
                if name == "inputs" or name.endswith(("_row", "_head", "_stride"))
                else types.get(name) or POINTERS.get(name, "*bf16")
            )
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


if __name__ == "__main__":
    print(json.dumps({name: build(*kernel, card=int(sys.argv[1])) for name, kernel in KERNELS.items()}))
