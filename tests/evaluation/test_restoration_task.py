"""Restoration: what is measured, what guides, and that guidance restores."""

from __future__ import annotations

import pytest
import torch
from sampling_runs import tiny_data
from tiny_runs import TinyNetworks

from tag_lightning.datamodules import MixtureDataModule
from tag_lightning.evaluation import Arm, RestorationTask, compare
from tag_lightning.guidance import DPS
from tag_lightning.measurements import GaussianBlur, Inpainting, Measurement, SuperResolution

CPU = torch.device("cpu")


def bound(measurement: Measurement, seed: int = 0, count: int = 6) -> RestorationTask:
    return RestorationTask(measurement, features="pixels").for_data(tiny_data()).for_samples(count, seed)


def test_a_sample_restores_the_same_image_from_the_same_measurement_in_every_chunk() -> None:
    task = bound(Inpainting())
    _, together = task.measured([0, 3, 5])
    _, alone = task.measured([3])
    assert torch.equal(together[1:2], alone)
    assert torch.equal(task.originals([0, 3, 5])[1:2], task.originals([3]))
    assert not torch.equal(alone, bound(Inpainting(), seed=1).measured([3])[1])


def test_no_image_is_restored_twice_until_all_were() -> None:
    task = bound(GaussianBlur(1.0))
    count = len(task.data.table("test"))
    flat = task.originals(range(count)).flatten(1)
    assert len(flat.unique(dim=0)) == count
    assert torch.equal(task.originals([0]), task.originals([count]))


@pytest.mark.parametrize("measurement", [GaussianBlur(1.0), SuperResolution(4), Inpainting()], ids=repr)
def test_the_original_satisfies_the_condition_up_to_the_noise(measurement: Measurement) -> None:
    task = bound(measurement)
    condition = task.conditions(range(6), CPU)["measurement"]
    _, y = task.measured(range(6))
    residual = -condition.log_likelihood(task.originals(range(6)))
    visible = (1 - 0.7) if isinstance(measurement, Inpainting) else 1
    assert float(residual.square().mean()) == pytest.approx(0.05**2 * visible * y[0].numel(), rel=0.4)
    assert (-condition.log_likelihood(torch.zeros(6, 3, 8, 8)) > 3 * residual).all()


@pytest.mark.parametrize("measurement", [GaussianBlur(1.0), SuperResolution(4), Inpainting()], ids=repr)
def test_guidance_restores(measurement: Measurement, tiny: TinyNetworks) -> None:
    task = RestorationTask(measurement, features="pixels").for_data(tiny_data())
    assert task.guided
    arms = {"unguided": Arm(), "dps": Arm([DPS(scale=3.0)])}
    results = compare(arms, tiny.root / "denoiser", task, 4, num_steps=8, chunk_size=3, progress=False)
    assert results["dps"].figures["psnr"] > results["unguided"].figures["psnr"] + 1
    assert set(results["dps"].figures) >= {"fid", "psnr"}
    assert results.pictures()["arms"].dtype == torch.uint8


@pytest.mark.filterwarnings("ignore:lpips is left out")
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(ValueError, match=r"measurement SuperResolution: factor 3 does not divide"):
        bound(SuperResolution(3))
    with pytest.raises(ValueError, match=r"RestorationTask needs samples \[C, H, W\]"):
        RestorationTask(GaussianBlur()).for_data(MixtureDataModule())
