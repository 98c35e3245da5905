"""Damage is what its name says, and predictors that see all or nothing of it get the areas 1 and 0.5."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.chemistry.encoding import MoleculeEncoding
from tag_lightning.datamodules.batch import Batch
from tag_lightning.diffusion import PolynomialSchedule, centred
from tag_lightning.metrics.damage_detection import (
    damage_detection,
    dilated,
    displaced,
    jittered,
    kinds_of_damage,
    miscast,
)

SIZES, WIDTH = [4, 9, 6, 9], 10
MASK = torch.arange(WIDTH) < torch.tensor(SIZES)[:, None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clean(seed: int = 1) -> Tensor:
    x = torch.zeros(len(SIZES), WIDTH, 8)
    x[..., :3] = 2 * torch.randn(len(SIZES), WIDTH, 3, generator=generator(seed))
    # Fluorine, the last column, does not occur.
    x[..., 3:] = torch.eye(5)[torch.randint(4, (len(SIZES), WIDTH), generator=generator(seed))] / 8
    return centred(x, MASK)


def distances(x: Tensor) -> Tensor:
    return torch.cdist(x[..., :3], x[..., :3])


@pytest.mark.parametrize("name", kinds_of_damage())
def test_damage_keeps_padding_and_centre(name: str) -> None:
    damaged = kinds_of_damage()[name](clean(), MASK, generator())
    assert not damaged[~MASK].any()
    assert float(damaged[..., :3].sum(1).abs().max()) < 1e-4
    assert not torch.equal(damaged, clean())
    if name != "wrong element":
        assert torch.equal(damaged[..., 3:], clean()[..., 3:])


def test_jitter_has_its_size() -> None:
    mask = torch.ones(1, 4000, dtype=torch.bool)
    moved = jittered(torch.zeros(1, 4000, 8), mask, generator(), by=0.2)
    assert float(moved[..., :3].std()) == pytest.approx(0.2, rel=0.03)


def test_one_atom_is_displaced_by_its_distance() -> None:
    moved = displaced(clean(), MASK, generator(), by=0.5)
    for row, size in enumerate(SIZES):
        step = moved[row, :size, :3] - clean()[row, :size, :3]
        # The others shift together, by the recentring.
        common = step.median(0).values
        length = (step - common).norm(dim=1)
        assert int((length > 0.01).sum()) == 1
        assert float(length.max()) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_one_atom_gets_an_element_that_occurs(seed: int) -> None:
    changed = miscast(clean(), MASK, generator(seed))
    assert torch.equal(changed[..., :3], clean()[..., :3])
    different = (changed != clean()).any(-1)
    assert different.sum(1).tolist() == [1] * len(SIZES)
    assert (changed[MASK][:, 3:] > 0).sum(1).eq(1).all()
    assert changed[..., 3:].unique().tolist() == [0.0, 0.125]
    assert not changed[..., 7].any()
    single = torch.cat((clean()[..., :3], torch.eye(5)[torch.zeros(len(SIZES), WIDTH, dtype=torch.long)]), -1)
    with pytest.raises(ValueError, match="a single element"):
        miscast(single, MASK, generator())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("charge_scale", [10.0, 1.0])
def test_a_molecule_with_charges_gets_another_element_and_its_charge(charge_scale: float, seed: int) -> None:
    encoding = MoleculeEncoding((1, 6, 7, 8, 9), 4.0, charge_scale)
    numbers = torch.tensor(encoding.elements)[torch.randint(4, MASK.shape, generator=generator(seed))] * MASK
    x = encoding.encode(numbers, clean()[..., :3])
    changed = kinds_of_damage(5)["wrong element"](x, MASK, generator(seed))
    decoded, positions = encoding.decode(changed, MASK)
    assert (decoded != numbers).sum(1).tolist() == [1] * len(SIZES)
    assert torch.equal(changed, encoding.encode(decoded, positions))
    assert not (decoded == 9).any()
    with pytest.raises(ValueError, match="not one-hot; leave the charge out by num_elements"):
        miscast(x, MASK, generator(seed))


def test_dilation_scales_distances() -> None:
    torch.testing.assert_close(distances(dilated(clean(), MASK, generator(), by=0.1)), 1.1 * distances(clean()))


class Surprise(nn.Module):
    """Logits that make the surprise at any timestep but the last a function of the sample, above about 10 nats."""

    def __init__(self, value: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        value = self.value(x, mask)[:, None]
        return torch.cat((-value.expand(-1, 199), torch.zeros(len(x), 1)), 1)


def extent(x: Tensor, mask: Tensor) -> Tensor:
    """Mean squared distance from the centre, ``[B]``."""
    return x[..., :3].square().sum((1, 2)) / mask.sum(1)


def batches(count: int = 3) -> list[Batch]:
    return [Batch(clean(seed), {}, {"mask": MASK}) for seed in range(count)]


def test_who_sees_everything_gets_one_and_who_sees_nothing_a_half() -> None:
    schedule = PolynomialSchedule(200)
    blind = damage_detection(Surprise(lambda x, mask: 10.0 + mask.sum(1)), schedule, batches(), (0, 10))
    assert blind.keys() == kinds_of_damage().keys()
    assert all(areas == {0: 0.5, 10: 0.5} for areas in blind.values())
    large = {"dilated": partial(dilated, by=5.0)}
    sharp = damage_detection(Surprise(lambda x, mask: 10 + extent(x, mask)), schedule, batches(), (0, 10), large)
    assert sharp == {"dilated": {0: 1.0, 10: 1.0}}
    opposite = damage_detection(Surprise(lambda x, mask: 2000 - extent(x, mask)), schedule, batches(), (0,), large)
    assert opposite == {"dilated": {0: 0.0}}


def test_damage_sinks_in_the_noise_and_a_seed_repeats() -> None:
    schedule = PolynomialSchedule(200)
    predictor, kinds = Surprise(lambda x, mask: 10 + extent(x, mask)), {"dilated": partial(dilated, by=0.5)}
    areas = damage_detection(predictor, schedule, batches(20), (1, 198), kinds)["dilated"]
    assert areas[1] > 0.8
    assert math.isclose(areas[198], 0.5, abs_tol=0.15)
    again = damage_detection(predictor, schedule, batches(20), (1,), kinds)
    assert again == {"dilated": {1: areas[1]}}
    assert damage_detection(predictor, schedule, batches(20), (1,), kinds, seed=1) != again
