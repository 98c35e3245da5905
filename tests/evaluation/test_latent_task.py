"""A comparison in a latent space: networks see latents; guide, judge, metrics and pictures see images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from sampling_runs import tiny_data, tiny_task, tiny_trainer
from tiny_runs import SIZE, TIMESTEPS, UNET, TinyNetworks, seeded
from torch import Tensor, nn

from tag_lightning.callbacks import GuidedSampling
from tag_lightning.datamodules import DigitsDataModule, LatentDataModule
from tag_lightning.diffusion import Denoiser, LatentSpace, LinearSchedule
from tag_lightning.evaluation import Arm, ImageTask, RestorationTask, compare
from tag_lightning.guidance import DPS, TemporalAlignment
from tag_lightning.measurements import Inpainting
from tag_lightning.modules import DiffusionModule, TimePredictorModule
from tag_lightning.networks import SimpleCNN, image_autoencoder
from tag_lightning.pretrained import save_pretrained

HALF = SIZE // 2


class Seen(nn.Module):
    """A classifier that remembers the shape and the range of what it was shown."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.layer = seeded(lambda: nn.Linear(3 * SIZE * SIZE, 10), 0)
        self.shapes: set[tuple[int, ...]] = set()
        self.largest = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.add(tuple(x.shape[1:]))
        self.largest = max(self.largest, float(x.detach().abs().max()))
        return self.layer(x.flatten(1))


def autoencoder(latent_channels: int = 4) -> nn.Module:
    network = seeded(lambda: image_autoencoder(widths=(4, 4), latent_channels=latent_channels, norm_num_groups=2), 0)
    network.register_to_config(scaling_factor=0.5)
    return network


def latent_data() -> LatentDataModule:
    return LatentDataModule(tiny_data(), autoencoder())


def denoiser(channels: int = 4) -> Denoiser:
    settings = UNET | {"sample_size": HALF, "in_channels": channels, "out_channels": channels}
    return Denoiser(seeded(lambda: UNet2DModel(**settings), 0), LinearSchedule(TIMESTEPS), "epsilon")


def predictor(seed: int = 0) -> SimpleCNN:
    network = seeded(lambda: SimpleCNN(HALF, 4, TIMESTEPS, widths=(8, 8)), seed)
    network.typical_nll.fill_(1.0)
    return network.requires_grad_(False)


def test_networks_see_latents_and_judges_see_images() -> None:
    guide, judge = Seen(), Seen()
    task = ImageTask(guide, judge, features="pixels").for_data(latent_data())
    arms = {"unguided": Arm(), "dps+tag": Arm([TemporalAlignment(), DPS(scale=20.0)]), "best": Arm(best_of=2)}
    results = compare(arms, denoiser(), task, 6, predictor=predictor(), num_steps=3, chunk_size=4, progress=False)
    assert guide.shapes == judge.shapes == {(3, SIZE, SIZE)}
    assert judge.largest <= 1
    assert results["dps+tag"].samples.shape == (6, 3, SIZE, SIZE)
    assert results["dps+tag"].figures.keys() >= {"fid", "accuracy", "time_gap"}
    assert not torch.allclose(results["unguided"].samples, results["dps+tag"].samples, atol=1e-3)
    assert results.pictures()["samples/dps+tag"].dtype == torch.uint8
    # The same latents, decoded by hand.
    space = task.space([0, 1], torch.device("cpu"))
    assert isinstance(space, LatentSpace)
    assert space.shape == (4, HALF, HALF)
    assert space.clip_range is None


def test_images_are_restored_in_their_latents() -> None:
    task = RestorationTask(Inpainting(), features="pixels").for_data(latent_data())
    arms = {"unguided": Arm(), "dps": Arm([DPS(scale=3.0)])}
    results = compare(arms, denoiser(), task, 4, num_steps=4, chunk_size=3, progress=False)
    assert results["dps"].figures["psnr"] > results["unguided"].figures["psnr"]


def test_batches_of_the_trainer_are_latents_and_the_reference_is_images(tmp_path: Path) -> None:
    data, seen = latent_data(), list[tuple[int, ...]]()

    class Watched(DiffusionModule):
        def training_step(self, batch: object, batch_idx: int) -> Tensor:
            seen.append(tuple(batch.x.shape[1:]))  # type: ignore[attr-defined]
            return super().training_step(batch, batch_idx)

    module = Watched(denoiser().network, LinearSchedule(TIMESTEPS))
    tiny_trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
    assert seen == [(4, HALF, HALF)]
    batch = next(iter(data.reference_dataloader()))
    assert batch.x.shape[1:] == (3, SIZE, SIZE)
    latents = data.on_after_batch_transfer(batch, 0)
    assert torch.equal(latents.x, data.autoencoder.encode(batch.x))
    assert latents.attributes is batch.attributes
    assert data.sample_shape == tuple(data.example.x.shape[1:]) == (4, HALF, HALF)
    assert data.num_classes == {"label": 10, "hue": 8}
    arguments = data.network_arguments
    assert (arguments["sample_size"], arguments["in_channels"], arguments["out_channels"]) == (HALF, 4, 4)
    assert not any(p.requires_grad for p in data.autoencoder.parameters())


def test_a_time_predictor_of_latents_is_trained_and_compares(tmp_path: Path, tiny: TinyNetworks) -> None:
    for name, network, schedule in (
        ("denoiser", denoiser().network, LinearSchedule(TIMESTEPS)),
        ("pipeline/vae", autoencoder(), None),
    ):
        save_pretrained(tmp_path / name, network, schedule)
    DDIMScheduler().save_pretrained(tmp_path / "pipeline" / "scheduler")  # as in the folder of a pipeline
    sampling = GuidedSampling(
        str(tmp_path / "denoiser"), task=tiny_task(tiny), num_steps=3, num_samples=4, every_n_epochs=1
    )
    data = LatentDataModule(DigitsDataModule(size=SIZE, batch_size=64), str(tmp_path / "pipeline" / "vae"))
    module = TimePredictorModule(predictor(1).requires_grad_(True), LinearSchedule(TIMESTEPS), noise_draws=1)
    tiny_trainer(tmp_path / "run", sampling, max_epochs=1).fit(module, datamodule=data)
    assert sampling.results.keys() >= {"unguided", "dps+tag", "adaptive length+tag", "corruption+tag"}
    assert all(0 <= result.figures["accuracy"] <= 1 for result in sampling.results.values())


def test_what_does_not_belong_together_is_one_line(tiny: TinyNetworks) -> None:
    task = ImageTask(features="pixels").for_data(latent_data())
    with pytest.raises(ValueError, match="autoencoder Linear: Linear is not an autoencoder"):
        _ = LatentDataModule(tiny_data(), nn.Linear(2, 2)).autoencoder
    with pytest.raises(ValueError, match=r"autoencoder .* cannot take samples of shape"):
        _ = LatentDataModule(DigitsDataModule(tinted=False), autoencoder()).example
    with pytest.raises(ValueError, match=r"\(UNet2DModel\) was built for 3 channels, but .* shape \[4, 4, 4\]"):
        compare({"unguided": Arm()}, denoiser(3), task, 4, num_steps=2, progress=False)
    with pytest.raises(ValueError, match=r"denoiser \(UNet2DModel\) cannot take samples of shape \[4, 4, 4\]"):
        compare({"unguided": Arm()}, tiny.root / "denoiser", task, 4, num_steps=2, progress=False)
