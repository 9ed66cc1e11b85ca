"""The plots of the README, from medians that were measured. Knows no server."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

Bars = Mapping[str, Mapping[str, float]]
"""Series -> label on the x axis -> height. A label that a series lacks leaves a gap."""


def bar_plot(
    panels: Sequence[tuple[str, Bars]], labels: Sequence[str], path: Path, *, title: str, log: bool = False
) -> None:
    """One panel each; the series of the first panel give the legend."""
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False)
    for axis, (name, bars) in zip(axes[0], panels, strict=True):
        width = 0.8 / max(1, len(bars))
        for number, (series, heights) in enumerate(bars.items()):
            places = [index for index, label in enumerate(labels) if label in heights]
            values = [heights[labels[index]] for index in places]
            axis.bar([index + number * width for index in places], values, width, label=series)
        axis.set_xticks([index + 0.4 - width / 2 for index in range(len(labels))], labels)
        axis.set_title(name)
        axis.spines[["top", "right"]].set_visible(False)
        if log:
            axis.set_yscale("log")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
