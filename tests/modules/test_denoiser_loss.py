"""The loss of a denoiser, on networks with a known error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from tag_lightning.datamodules import Batch
from tag_lightning.diffusion import Denoiser, LinearSchedule, PredictionType
from tag_lightning.modules import DiffusionModule
from tag_lightning.pretrained import load_pretrained, save_pretrained

# Modules called by hand have nowhere to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

COUNT, TIMESTEPS = 200, 50
CLEAN = torch.tensor([0.3, -0.7, 0.5, 0.9], dtype=torch.float64)


class KnowingNetwork(nn.Module):
    """Knows that every clean sample is ``CLEAN``, and so the noise in what it is given.

    Args:
        answer: Maps the true noise ``[B, 4]`` to the network's answer.
        read: Maps the timesteps that it is told, ``[B]``, to those it believes in.
    """

    def __init__(self, answer: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.read = read
        self.powers = LinearSchedule(TIMESTEPS).alphas_cumprod.double()
        self.heard: list[int] = []

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        self.heard += timesteps.tolist()
        power = self.powers[self.read(timesteps)][:, None]
        return self.answer((x - power.sqrt() * CLEAN) / (1 - power).sqrt())


def same(values: Tensor) -> Tensor:
    return values


def losses(
    answer: Callable[[Tensor], Tensor] = same, read: Callable[[Tensor], Tensor] = same
) -> tuple[float, float, list[int]]:
    """What training and validation make of such a network, and the timesteps that it was told."""
    network = KnowingNetwork(answer, read)
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS))
    batch = Batch(CLEAN.repeat(COUNT, 1), {}, {})
    module.train()
    trained = float(module.training_step(batch, 0))
    module.eval()
    module.evaluate(batch, 0)
    return trained, float(module.mean_loss.compute()), network.heard


def test_the_true_noise_at_the_true_timestep_costs_nothing() -> None:
    trained, validated, conditional = losses()
    assert trained < 1e-8
    assert validated < 1e-8
    assert set(conditional) == set(range(TIMESTEPS))


@pytest.mark.parametrize(("factor", "cost"), [(-1.0, 4.0), (0.0, 1.0), (2.0, 1.0)])
def test_a_multiple_of_the_noise_costs_the_square_of_what_is_missing(factor: float, cost: float) -> None:
    trained, validated, _ = losses(answer=lambda noise: factor * noise)
    # 800 squares of normal numbers: a standard error of 5 %.
    assert trained == pytest.approx(cost, rel=0.2)
    assert validated == pytest.approx(cost, rel=0.2)


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_noise_of_the_neighbouring_timestep_costs_something(shift: int) -> None:
    """So that the first test would notice a network told another timestep than that of its sample."""
    trained, validated, _ = losses(read=lambda timesteps: (timesteps + shift).clamp(0, TIMESTEPS - 1))
    assert trained > 1e-4
    assert validated > 1e-4


def test_a_share_of_the_timesteps_is_dropped_in_training_alone() -> None:
    network = KnowingNetwork(lambda noise: noise, read=lambda timesteps: timesteps.clamp(max=TIMESTEPS - 1))
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS), timestep_dropout=0.25)
    batch = Batch(CLEAN.repeat(2000, 1), {}, {})
    module.train().training_step(batch, 0)
    null = LinearSchedule(TIMESTEPS).null_timestep
    assert network.heard.count(null) == pytest.approx(500, abs=100)  # five standard errors
    assert set(network.heard) - {null} == set(range(TIMESTEPS))
    network.heard.clear()
    module.eval().evaluate(batch, 0)
    assert null not in network.heard


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_an_impossible_share_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=rf"timestep_dropout must lie in \[0, 1\), got {probability}"):
        DiffusionModule(KnowingNetwork(same, same), LinearSchedule(TIMESTEPS), timestep_dropout=probability)


def unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
    )


def saved_both_ways(module: DiffusionModule, root: Path) -> dict[str, Any]:
    """Save the module's network as ``folder`` and as ``file.ckpt``, whose content is returned."""
    save_pretrained(root / "folder", module.network, module.schedule)
    checkpoint: dict[str, Any] = {"state_dict": {f"network.{k}": v for k, v in module.network.state_dict().items()}}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, root / "file.ckpt")
    return checkpoint


def test_a_saved_denoiser_remembers_that_it_was_trained_without_its_timestep(tmp_path: Path) -> None:
    """In a folder and in a checkpoint."""
    for probability in (0.0, 0.1):
        module = DiffusionModule(unet(), LinearSchedule(TIMESTEPS), timestep_dropout=probability)
        saved_both_ways(module, tmp_path)
        for source in ("folder", "file.ckpt"):
            network, schedule, prediction_type, *_ = load_pretrained(tmp_path / source)
            assert schedule is not None
            denoiser = Denoiser(network, schedule, prediction_type)
            assert denoiser.has_null_timestep == (probability > 0)
    x = torch.randn(2, 1, 8, 8)
    conditional, unconditional = denoiser(x, 3), denoiser(x, 3, null_timestep=True)
    assert unconditional.epsilon.isfinite().all()
    assert not torch.allclose(conditional.epsilon, unconditional.epsilon)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_a_network_learns_the_quantity_that_is_asked_for(prediction_type: PredictionType) -> None:
    """One that answers with that quantity has no loss, and the denoiser of the same module reads the noise from it."""
    schedule = LinearSchedule(TIMESTEPS)

    class Answering(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            clean = CLEAN.expand_as(x)
            if prediction_type == "sample":
                return clean
            power = schedule.alphas_cumprod[timesteps][:, None]
            epsilon = (x - power.sqrt() * clean) / (1 - power).sqrt()
            return power.sqrt() * epsilon - (1 - power).sqrt() * clean

    module = DiffusionModule(Answering(), schedule, prediction_type=prediction_type)
    assert float(module.training_step(Batch(CLEAN.repeat(COUNT, 1), {}, {}), 0)) < 1e-20
    epsilon = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t = schedule.add_noise(CLEAN.expand(3, 4), epsilon, 7)
    prediction = module.sampling_resources()["denoiser"](x_t, 7)
    torch.testing.assert_close(prediction.epsilon, epsilon)
    torch.testing.assert_close(prediction.x0, CLEAN.expand(3, 4))


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_a_saved_denoiser_remembers_what_it_predicts(prediction_type: PredictionType, tmp_path: Path) -> None:
    """In a folder, in a checkpoint and in training that goes on from either."""
    module = DiffusionModule(unet(), LinearSchedule(TIMESTEPS), prediction_type=prediction_type)
    checkpoint = saved_both_ways(module, tmp_path)
    for source in ("folder", "file.ckpt"):
        loaded = load_pretrained(tmp_path / source)
        assert loaded.prediction_type == prediction_type
        assert DiffusionModule(loaded.network).prediction_type == prediction_type
    with pytest.raises(ValueError, match=rf"_prediction_type {prediction_type} there and None here"):
        DiffusionModule(unet(), LinearSchedule(TIMESTEPS)).on_load_checkpoint(checkpoint)


def test_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction_type must be one of epsilon, sample, v_prediction, got 'x0'"):
        DiffusionModule(unet(), prediction_type="x0")  # type: ignore[arg-type]


def test_a_network_that_cannot_be_told_nothing_shows_before_training() -> None:
    """One that looks its timestep up in a table."""
    network = unet()
    network.time_proj = nn.Embedding(TIMESTEPS, 8)
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS), timestep_dropout=0.1)
    with pytest.raises(ValueError, match=r"^model.network \(UNet2DModel\) cannot take samples of shape"):
        module.try_network(Batch(torch.zeros(1, 1, 8, 8), {}, {}))
