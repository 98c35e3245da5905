"""Inception Score of known probabilities, and against torchmetrics' public class."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_runs import TinyNetworks
from torch import Tensor, nn

from tag_lightning.metrics import InceptionScore


class Logits(nn.Module):
    """The first K pixels are the logits."""

    num_classes = 4

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]


def measured(logits: Tensor) -> float:
    metric = InceptionScore().for_task(SimpleNamespace(judge=Logits()))
    assert metric.columns == {"logits_judge": 4}
    rows = metric.rows(logits.reshape(-1, 1, 2, 2), range(len(logits)))
    return metric.summary({name: row.double() for name, row in rows.items()})["inception_score_judge"]


def test_certain_and_evenly_spread_samples_score_the_number_of_classes() -> None:
    assert measured(1e4 * torch.eye(4).repeat(5, 1)) == pytest.approx(4)
    assert measured(1e4 * torch.eye(4)[:2].repeat(5, 1)) == pytest.approx(2)
    assert measured(1e4 * torch.eye(4)[:1].repeat(5, 1)) == pytest.approx(1)
    assert measured(torch.zeros(6, 4)) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save")
@pytest.mark.filterwarnings("ignore:std")
def test_it_is_torchmetrics_with_one_split() -> None:
    from torchmetrics.image.inception import InceptionScore as Reference

    logits = 2 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = Reference(nn.Identity(), splits=1)
    expected.update(logits)
    assert measured(logits.float()) == pytest.approx(float(expected.compute()[0]), rel=1e-6)


def test_the_figure_is_named_after_the_classifier(tiny: TinyNetworks) -> None:
    name = str(tiny.root / "guide")
    metric = InceptionScore(name).for_task(SimpleNamespace(judge=None))
    (figure,) = metric.summary({f"logits_{name}": torch.zeros(3, 10)})
    assert figure == f"inception_score_{name}"
    assert InceptionScore().for_task(SimpleNamespace(judge=None)).columns == {}, "nothing without a judge"


def test_a_network_that_is_not_a_classifier_is_refused(tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match=r"InceptionScore needs a classifier, but .* is a SimpleCNN"):
        InceptionScore(str(tiny.root / "predictor")).for_task(SimpleNamespace(judge=None))
