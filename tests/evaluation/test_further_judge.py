"""A second judge of molecules, beside that of the task."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import seeded

from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.evaluation import MoleculeTask
from tag_lightning.metrics import PropertyError
from tag_lightning.networks import EGNNPropertyPredictor


@pytest.fixture(scope="module")
def data() -> SmallMoleculesDataModule:
    made = SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, properties=("alpha", "mu"))
    made.setup("validate")
    return made


def predictor(seed: int, *names: str) -> EGNNPropertyPredictor:
    network = seeded(lambda: EGNNPropertyPredictor(names, width=8, num_layers=1), seed)
    assert isinstance(network, EGNNPropertyPredictor)
    return network.eval().requires_grad_(False)


JUDGE, OTHER = predictor(3, "alpha"), predictor(7, "alpha")


def test_its_figures_stand_beside_those_of_the_judge(data: SmallMoleculesDataModule) -> None:
    further = PropertyError(details=True, judge=OTHER, prefix="other_")
    task = MoleculeTask(None, JUDGE, metrics=[further]).for_data(data).for_samples(8, 0)
    task.prepare([], torch.device("cpu"))
    assert task.reference["other_mae_alpha"] != task.reference["mae_alpha"]
    assert OTHER in task.networks
    x, mask, asked = torch.randn(8, *data.sample_shape), task.mask(range(8)), task.targets(range(8), ("alpha",))
    figures = task.summary({name: row.double() for name, row in task.rows(x, range(8)).items()})
    decided = task.encoding.encode(*task.encoding.decode(x, mask))
    for key, judge in (("other_mae_alpha", OTHER), ("mae_alpha", JUDGE)):
        assert figures[key] == pytest.approx(float((judge(decided, mask) - asked).abs().mean()), rel=1e-5)
    assert {"other_median_alpha", "other_stable_mae_alpha"} <= figures.keys()


def test_it_needs_a_prefix_and_properties_that_are_asked(data: SmallMoleculesDataModule) -> None:
    with pytest.raises(ValueError, match="a judge of its own needs a prefix"):
        PropertyError(judge=JUDGE)
    unasked = PropertyError(judge=predictor(7, "mu"), prefix="other_")
    with pytest.raises(ValueError, match="EGNNPropertyPredictor predicts 'mu', which the molecules are not asked for"):
        MoleculeTask(None, JUDGE, metrics=[unasked]).for_data(data).for_samples(8, 0)
