"""All figures name metrics alike."""

from __future__ import annotations

import numpy as np
import pytest

from tag_lightning.evaluation.metric_labels import metric_label
from tag_lightning.evaluation.sweep_figures import SweepLine, sweep_figure


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("fid", "FID"),
        ("time_gap", "Time-Gap [training timesteps]"),
        ("atom_stability", "atom stability"),
        ("accuracy", "accuracy"),
        ("mae_alpha", "MAE of alpha [bohr^3]"),
        ("mae_score", "MAE of score"),
        ("accuracy_all", "share that satisfies all targets"),
        ("within_mu", "share with mu in the range"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert metric_label(name) == label


def test_the_figures_of_sweeps_have_the_labels() -> None:
    metrics = ["fid", "mae_alpha"]
    line = SweepLine(np.array([1.0, 2.0]), {name: np.ones((2, 1)) for name in metrics})
    panels = sweep_figure({"dps": line}, "scale", metrics).axes
    assert [axes.get_ylabel() for axes in panels] == ["FID", "MAE of alpha [bohr^3]"]
