"""What a card that is nearly full says, and where kernels are kept whose usual place cannot be written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import make_model
from truss_model.engine.execution.limits import limits, measured_limits
from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError

REPOSITORY = Path(__file__).parents[3]


class NearlyFull:
    """A card whose free memory is less than a step's."""

    def free(self) -> int:
        return 1_500_000_000

    def release(self) -> None:
        pass

    def peak(self, work: Callable[[], object]) -> int:
        work()
        return 1_200_000_000


def test_a_card_without_room_for_a_page_is_told_what_would_make_some() -> None:
    model, memory, sizes = make_model(), NearlyFull(), list[int]()
    chosen = limits(model, EngineSettings(), memory)
    with pytest.raises(LoadError) as error:
        measured_limits(model, chosen, 0.9, memory, [lambda: None], 0, sizes.append)
    assert error.value.message == (
        "No memory is left for the KV cache: 1.5 GB are free after loading, and steps need up to 1.7 GB. Set "
        "model_metadata.engine.max_rows or token_budget lower, quantization to int8, or choose a larger accelerator "
        "under resources in config.yaml."
    )


@pytest.mark.parametrize(("home", "elsewhere"), [("nowhere", True), ("", False)])
def test_kernels_are_kept_elsewhere_if_the_home_folder_cannot_be_written(
    tmp_path: Path, home: str, elsewhere: bool
) -> None:
    command = "import os, truss_model.engine.execution.cuda; print(os.environ.get('TRITON_CACHE_DIR'))"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TRITON_")},
        "HOME": str(tmp_path / home), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    found = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    wanted = tmp_path / "cache" / "truss-openai-bridge" / "triton" if elsewhere else None
    assert found.stdout.strip() == str(wanted)
