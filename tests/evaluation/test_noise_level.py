"""The regressor of the noise level in a comparison."""

from __future__ import annotations

import pytest
import torch

from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import DDIM, Denoiser, LinearSchedule
from tag_lightning.evaluation import Arm, ImageTask, compare
from tag_lightning.evaluation.networks import load_denoiser, load_noise_level
from tag_lightning.guidance import Corruption, Retiming


@pytest.fixture(scope="module")
def data() -> DigitsDataModule:
    return DigitsDataModule()


def test_arms_retime_by_the_network_of_the_comparison(data: DigitsDataModule) -> None:
    task = ImageTask(judge="digits/judge", features="judge").for_data(data)
    reference = [data.table("val")[[0, 1, 2, 3]]]
    arms = {"corruption": Arm([Corruption(0.3)]), "corruption+retiming": Arm([Corruption(0.3), Retiming()])}
    settings = {"reference": reference, "solver": DDIM(0.0), "num_steps": 4, "progress": False}
    results = compare(arms, "digits/denoiser", task, 2, noise_level="digits/noise_level", **settings)  # type: ignore[arg-type]
    plain, retimed = (results[name].samples for name in arms)
    assert not torch.equal(plain, retimed)
    with pytest.raises(ValueError, match=r"arm corruption\+retiming: RegressedNoise has no network"):
        compare(arms, "digits/denoiser", task, 2, **settings)  # type: ignore[arg-type]


def test_a_network_that_is_none_is_refused(data: DigitsDataModule) -> None:
    denoiser = load_denoiser("digits/denoiser", data.example)
    with pytest.raises(ValueError, match="noise_level digits/judge has no noise schedule: it was not trained on noisy"):
        load_noise_level("digits/judge", denoiser, data.example)
    other = Denoiser(denoiser.network, LinearSchedule(1000, 1e-4, 0.03), "epsilon")
    with pytest.raises(ValueError, match=r"noise_level digits/noise_level and the denoiser follow different noise"):
        load_noise_level("digits/noise_level", other, data.example)
    with pytest.raises(ValueError, match=r"noise_level .* cannot take samples of shape"):
        load_noise_level("digits/noise_level", denoiser, DigitsDataModule(tinted=False).example)
