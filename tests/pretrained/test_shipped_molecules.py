"""The shipped networks of molecules match their documentation."""

from __future__ import annotations

import math

import pytest
import torch

from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.diffusion import DDIM, Denoiser, PointCloudSpace, Sampler
from tag_lightning.metrics import damage_detection, molecule_quality
from tag_lightning.networks import EGNNNoiseLevel, EGNNPropertyPredictor, EGNNTimePredictor
from tag_lightning.pretrained import load_pretrained


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SmallMoleculesDataModule:
    return SmallMoleculesDataModule(cache=str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(("name", "limits"), [("guide", (0.8, 0.9)), ("judge", (0.8, 0.9))])
def test_predictors_are_better_than_the_mean(
    name: str, limits: tuple[float, float], data: SmallMoleculesDataModule
) -> None:
    network = load_pretrained(f"molecules/{name}").network
    assert isinstance(network, EGNNPropertyPredictor)
    table = data.table("test")
    batch = table[list(range(len(table)))]
    error = (network(batch.x, **batch.inputs) - torch.stack([batch.attributes[n] for n in network.properties], 1)).abs()
    for k, limit in enumerate(limits):
        assert float(error[:, k].mean()) < limit
        assert float(error[:, k].mean()) < 0.7 * float(network.spread[k])


def test_the_time_gap_predictor_tells_the_time(data: SmallMoleculesDataModule) -> None:
    network, schedule, *_ = load_pretrained("molecules/time_gap_predictor")
    assert isinstance(network, EGNNTimePredictor)
    assert schedule is not None
    assert bool(network.typical_nll.isfinite().all())
    batch = data.table("test")[list(range(256))]
    space = PointCloudSpace(data.table("test").sizes[:256].tolist(), 5, range(256))
    # Whoever guesses is off by 250 at least; late noise is harder to tell apart.
    for timestep, most in ((100, 20), (500, 70), (900, 120)):
        noise = space.project(torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0)))
        logits = network(schedule.add_noise(batch.x, noise, timestep), **batch.inputs)
        assert float((logits.argmax(1) - timestep).abs().float().mean()) < most


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.3])
def test_the_noise_level_is_right_on_and_off_the_marginals(ratio: float, data: SmallMoleculesDataModule) -> None:
    """100 coordinates allow 7 %, and nothing of the data is known exactly."""
    network, schedule, *_ = load_pretrained("molecules/noise_level")
    assert isinstance(network, EGNNNoiseLevel)
    assert schedule is not None
    batch = data.table("test")[list(range(256))]
    space = PointCloudSpace(data.table("test").sizes[:256].tolist(), 5, range(256))
    for timestep in (59, 279, 759):
        noise = space.project(torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(timestep)))
        x = schedule.add_noise(batch.x, ratio * noise, timestep)
        with torch.no_grad():
            error = network(x, torch.full((256,), timestep), **batch.inputs) - math.log(ratio)
        assert abs(float(error.mean())) < 0.06
        assert float(error.std()) < 0.17


def test_the_time_predictor_sees_damage_of_the_geometry(data: SmallMoleculesDataModule) -> None:
    network, schedule, *_ = load_pretrained("molecules/time_predictor")
    assert isinstance(network, EGNNTimePredictor)
    assert schedule is not None
    assert bool(network.typical_nll.isfinite().all())
    areas = damage_detection(network, schedule, [data.table("test")[list(range(256))]], [5])
    for damage in ("jitter 0.1", "atom moved by 0.5", "wrong element"):
        assert areas[damage][5] > 0.9, damage


@pytest.mark.slow
def test_nine_of_ten_atoms_are_stable(data: SmallMoleculesDataModule) -> None:
    network, schedule, *_ = load_pretrained("molecules/denoiser")
    assert schedule is not None
    train = data.table("train")
    sizes = train.sizes[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:256]]
    space = PointCloudSpace(sizes.tolist(), 5, range(256))
    x = Sampler(Denoiser(network, schedule, "epsilon"), DDIM(), 50).sample(space, 0)
    figures = molecule_quality(*data.encoding.decode(x, space.mask))
    assert figures["atom_stability"] >= 0.9
    assert figures["nan"] == 0
