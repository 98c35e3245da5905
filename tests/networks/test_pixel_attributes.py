"""Ink and hue: networks without weights agree with the attributes that the digits carry."""

from __future__ import annotations

import pytest
import torch

from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.networks import Hue, Ink


@pytest.mark.parametrize("tinted", [False, True])
def test_ink_is_the_attribute_of_every_digit_whatever_its_hue(tinted: bool) -> None:
    table = DigitsDataModule(tinted=tinted).table("val")
    batch = table[list(range(0, len(table), 7))]
    torch.testing.assert_close(Ink()(batch.x), batch.attributes["ink"])
    assert batch.attributes["ink"].std() > 0.03


def test_ink_of_plain_images_is_their_brightness() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 3, 4, 4)
    assert Ink()(x).tolist() == [0.0, 0.5, 1.0]


def test_hue_is_the_attribute_of_every_tinted_digit() -> None:
    table = DigitsDataModule().table("val")
    batch = table[list(range(len(table)))]
    logits = Hue()(batch.x)
    assert torch.equal(logits.argmax(1), batch.attributes["hue"])
    assert logits.softmax(1).max(1).values.min() > 0.95


@pytest.mark.parametrize("network", [Ink(), Hue()])
def test_they_are_differentiable_as_finite_differences_say(network: torch.nn.Module) -> None:
    x = torch.rand(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(network.double(), x)


def test_the_hue_of_grey_images_is_undecided_and_finite() -> None:
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    logits = Hue()(x)
    assert logits.unique().numel() == 1
    (gradient,) = torch.autograd.grad(logits[0, 0], x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("settings", "message"), [({"num_classes": 1}, "at least 2"), ({"sharpness": 0}, "above 0")])
def test_impossible_hues_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hue(**settings)
