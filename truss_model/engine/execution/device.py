"""Chooses the backend of the device that holds the model."""

from transformers import PreTrainedModel

from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.cpu.backend import cpu_backend
from truss_model.engine.execution.limits import Limits
from truss_model.engine.settings import EngineSettings


def make_backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """Make the model ready for its device; its modules may be replaced in place."""
    if model.device.type == "cuda":
        # Triton comes with torch's CUDA builds alone.
        from truss_model.engine.execution.cuda.backend import cuda_backend

        return cuda_backend(model, limits, settings)
    return cpu_backend(model, limits, settings)
