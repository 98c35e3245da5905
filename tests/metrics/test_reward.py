"""The mean reward of samples and of real data."""

from types import SimpleNamespace

import pytest
import torch

from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.metrics import MeanReward
from tag_lightning.networks import Ink


def test_the_reward_is_the_mean_over_samples_and_the_reference_that_of_real_data() -> None:
    data = DigitsDataModule(size=8)
    data.setup("test")
    metric = MeanReward(Ink()).for_task(SimpleNamespace(data=data))
    x = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 8, 8)  # of ink 0, 0.25 ... 1
    rows = metric.rows(x, range(5))
    assert rows["reward"].shape == (5, metric.columns["reward"])
    assert metric.summary(rows) == {"reward": pytest.approx(0.5)}
    above, below = metric.terms(rows)["reward"]
    assert float(above.sum() / below.sum()) == pytest.approx(0.5)
    metric.prepare(torch.device("cpu"))
    table = data.table("test")
    ink = table[list(range(1024))].attributes["ink"]
    assert metric.reference == {"reward": pytest.approx(float(ink.mean()), abs=1e-6)}
