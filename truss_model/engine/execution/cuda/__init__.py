"""The engine on NVIDIA GPUs: kernels in Triton, modules that use them, CUDA graphs of the decode step."""

import os
from pathlib import Path

from truss_model.engine.execution.cache_folder import cache_folder

# Triton 3.9 warns that its default will change; multiply-add in one instruction is what the kernels were written for.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
# Where its own place, in the home folder, cannot be written, no kernel could be compiled.
if not os.access(Path.home(), os.W_OK) and "TRITON_HOME" not in os.environ:
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_folder() / "triton"))
