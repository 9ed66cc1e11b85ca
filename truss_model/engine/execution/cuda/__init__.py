"""The engine on NVIDIA GPUs: kernels in Triton, modules that use them, CUDA graphs of the decode step."""

import os

# Triton 3.9 warns that its default will change; multiply-add in one instruction is what the kernels were written for.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
