"""The training noise of a classifier has the configured size; validation has none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag_lightning.datamodules import Batch
from tag_lightning.modules import PropertyModule

# Modules called by hand have nowhere to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

CLASSES = 4


class ReadingClassifier(nn.Module):
    """Takes the first pixels for logits, and remembers what it was shown."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.flatten(1)[:, :CLASSES]


def images(count: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Batch(torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1, {"label": labels}, {})


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_training_adds_gaussian_noise_of_the_deviation_asked_for(noise: float) -> None:
    network, batch = ReadingClassifier(), images()
    loss = PropertyModule(network, noise=noise).train().training_step(batch, 0)
    (seen,) = network.seen
    added = (seen - batch.x).double()
    # 12,288 numbers: a standard error of 0.6 % of the deviation, and of 0.9 % of the noise in the mean.
    assert float(added.std()) == pytest.approx(noise, rel=0.03)
    assert float(added.mean()) == pytest.approx(0, abs=0.04 * noise)
    # Normal numbers have a kurtosis of 3, uniform ones of 1.8, signs of 1.
    assert float((added / noise).pow(4).mean()) == pytest.approx(3, rel=0.1)
    # Every pixel has its own.
    assert len(added.unique()) > 0.9 * added.numel()
    expected = F.cross_entropy(seen.flatten(1)[:, :CLASSES], batch.attributes["label"])
    torch.testing.assert_close(loss, expected)


def test_training_without_noise_shows_the_images_themselves() -> None:
    network, batch = ReadingClassifier(), images()
    PropertyModule(network).train().training_step(batch, 0)
    assert torch.equal(network.seen[0], batch.x)


def test_validation_shows_the_images_themselves() -> None:
    network, batch = ReadingClassifier(), images()
    module = PropertyModule(network, noise=0.5).eval()
    module.evaluate(batch, 0)
    assert torch.equal(network.seen[0], batch.x)
    logits, label = batch.x.flatten(1)[:, :CLASSES], batch.attributes["label"]
    right = sum(int(row.argmax()) == int(wanted) for row, wanted in zip(logits, label, strict=True))
    assert float(module.accuracy.compute()) == pytest.approx(right / len(label))
    assert float(module.mean_loss.compute()) == pytest.approx(float(F.cross_entropy(logits, label)), rel=1e-5)
