"""Failed steps: how many, whether they repeat, and whether another one can succeed in this process."""

import logging

from truss_model.engine.execution.fault_record import poisons
from truss_model.errors import GpuLost

logger = logging.getLogger(__name__)

STEP_FAILED = "The model failed while generating. You may retry the request."
TO_UNWELL = 3  # failed steps in a row


class StepFaults:
    """Counts them. A step that succeeds ends a series."""

    def __init__(self) -> None:
        self.total = 0
        self._in_a_row = 0

    @property
    def repeated(self) -> bool:
        """Whether the last steps all failed."""
        return self._in_a_row >= TO_UNWELL

    def succeeded(self) -> None:
        self._in_a_row = 0

    def failed(self, rows: int, error: Exception) -> None:
        """Count a step of so many rows. Raises GpuLost if no other step can succeed."""
        logger.error("A step of %d rows failed.", rows, exc_info=error)
        self.total, self._in_a_row = self.total + 1, self._in_a_row + 1
        if poisons(error):
            raise GpuLost("A fault of the GPU ended this process's use of it.") from error
