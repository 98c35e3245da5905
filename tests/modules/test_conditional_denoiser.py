"""Denoisers that are told a class or a property: what training tells them, and what a saved one remembers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from lightning import Trainer
from torch import Tensor, nn

from tag_lightning.datamodules import Batch, DigitsDataModule, SmallMoleculesDataModule
from tag_lightning.diffusion import Conditioning, Denoiser, LinearSchedule
from tag_lightning.modules import DiffusionModule
from tag_lightning.networks import EGNNDenoiser
from tag_lightning.pretrained import load_pretrained, save_pretrained

# Modules called by hand have nowhere to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

TIMESTEPS, CLASSES = 50, 10


def unet(**settings: Any) -> UNet2DModel:
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    return UNet2DModel(**shape, **blocks, num_class_embeds=CLASSES + 1, **settings)


def molecule_network() -> EGNNDenoiser:
    return EGNNDenoiser(5, TIMESTEPS, width=8, num_blocks=1, longest=1.0, num_context=1)


class Listener(nn.Module):
    """Notes the classes that a UNet is told."""

    def __init__(self, network: UNet2DModel) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        self.register_to_config = network.register_to_config
        self.heard: list[int] = []

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        self.heard += class_labels.tolist()
        return self.network(x, timesteps, class_labels=class_labels).sample


def images(count: int) -> Batch:
    return Batch(torch.randn(count, 1, 8, 8), {"label": torch.arange(count) % CLASSES}, {})


def test_a_share_of_the_labels_is_dropped_in_training_alone() -> None:
    network = Listener(unet())
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS), condition="label", condition_dropout=0.25)
    module.train().training_step(images(800), 0)
    assert network.heard.count(CLASSES) == pytest.approx(200, abs=62)  # five standard errors
    kept = [(i % CLASSES, conditional) for i, conditional in enumerate(network.heard) if conditional != CLASSES]
    assert all(own == conditional for own, conditional in kept)
    network.heard.clear()
    module.eval().evaluate(images(800), 0)
    assert network.heard == images(800).attributes["label"].tolist()


def test_the_noise_of_a_batch_does_not_depend_on_the_dropout() -> None:
    """So that a conditional denoiser is compared with an unconditional one on the same samples."""
    seen: list[Tensor] = []

    class Seeing(Listener):
        def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x, timesteps, class_labels)

    batch = images(4)
    for dropout in (0.0, 0.5):
        module = DiffusionModule(
            Seeing(unet()), LinearSchedule(TIMESTEPS), condition="label", condition_dropout=dropout
        )
        module.train().training_step(batch, 0)
    assert torch.equal(*seen)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["image", "molecule"])
def test_a_saved_denoiser_remembers_its_condition(kind: str, dropout: float, tmp_path: Path) -> None:
    """In a folder and in a checkpoint."""
    network, name = (unet(), "label") if kind == "image" else (molecule_network(), "alpha")
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS), condition=name, condition_dropout=dropout)
    if isinstance(network, EGNNDenoiser):
        network.measure_context(torch.tensor([1.0, 3.0, math.nan]))
    save_pretrained(tmp_path / "folder", module.network, module.schedule)
    checkpoint = {"state_dict": {f"network.{k}": v for k, v in module.network.state_dict().items()}}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "file.ckpt")
    for source in ("folder", "file.ckpt"):
        loaded, schedule, prediction_type, _ = load_pretrained(tmp_path / source)
        assert schedule is not None
        denoiser = Denoiser(loaded, schedule, prediction_type)
        assert denoiser.conditioning == module.conditioning
        assert denoiser.has_null_condition == (dropout > 0)
        if isinstance(loaded, EGNNDenoiser):
            assert (float(loaded.context_mean), float(loaded.context_spread)) == (2.0, 1.0)


def test_a_condition_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^alpha is 2 in all 2 training samples, so a network cannot learn it; leave"):
        molecule_network().measure_context(torch.tensor([2.0, math.nan, 2.0]), "alpha")


def test_a_network_that_takes_no_condition_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"condition is 'alpha', but the EGNNDenoiser takes none; set num_class_embeds"
    ):
        DiffusionModule(EGNNDenoiser(width=8, num_blocks=1), condition="alpha")


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_an_impossible_share_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=rf"condition_dropout must lie in \[0, 1\), got {dropout}"):
        DiffusionModule(unet(), condition="label", condition_dropout=dropout)


@pytest.mark.parametrize(
    ("condition", "size", "message"),
    [
        ("ink", 10, "condition 'ink' is a quantity of the data, but the network takes a class"),
        ("colour", 10, "condition is 'colour', but the data have hue, ink, label"),
        (
            "label",
            4,
            "the data have 10 classes of 'label', but the network tells 4 apart; set its num_class_embeds to 11",
        ),
    ],
)
def test_data_that_do_not_fit_the_condition_are_refused(condition: str, size: int, message: str) -> None:
    data = DigitsDataModule()
    conditioning = Conditioning(condition, "class_labels", size, has_null=True)
    with pytest.raises(ValueError, match=message):
        conditioning.require_data(data.example and data.num_classes, data.example.attributes)


def test_the_null_property_takes_its_column_away() -> None:
    """An unknown property has the same effect whatever the others of the batch are, and another than a known one."""
    network = molecule_network().double()
    denoiser = Denoiser(network, LinearSchedule(TIMESTEPS), "epsilon")
    with pytest.raises(ValueError, match="conditioned on 1 properties, got a context of 0; pass context"):
        network(torch.zeros(1, 4, 8), torch.zeros(1), torch.ones(1, 4, dtype=torch.bool))
    Conditioning.for_training(network, "alpha", 0.1)
    denoiser = Denoiser(network, LinearSchedule(TIMESTEPS), "epsilon")
    x, mask = torch.randn(3, 4, 8, dtype=torch.float64), torch.ones(3, 4, dtype=torch.bool)
    x[..., :3] -= x[..., :3].mean(1, keepdim=True)
    known = torch.tensor([0.5, math.nan, -1.0], dtype=torch.float64)
    some = denoiser(x, 9, mask=mask, context=known).epsilon
    none = denoiser(x, 9, mask=mask, context=known, null_condition=True).epsilon
    torch.testing.assert_close(none, denoiser(x, 9, mask=mask).epsilon)
    torch.testing.assert_close(some[1], none[1])
    assert not torch.allclose(some[0], none[0])
    assert not torch.allclose(some[2], none[2])


def test_a_tiny_training_learns_to_use_the_property_and_to_do_without() -> None:
    """The only feature of each molecule follows from its property, and so does the noise in it."""
    value = torch.randn(64, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(64, 2, 4)
    x[..., 3] = 2 * value[:, None]
    batch = Batch(x, {"alpha": value}, {"mask": torch.ones(64, 2, dtype=torch.bool)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EGNNDenoiser(1, TIMESTEPS, width=16, num_blocks=1, longest=1.0, num_context=1)
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS, 1e-3, 0.2), condition="alpha", condition_dropout=0.3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for index in range(150):
        optimizer.zero_grad()
        module.train()._loss(batch, index, condition_dropout=0.3).backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        conditional, unconditional = float(module._loss(batch, 0)), float(module._loss(batch, 0, condition_dropout=1.0))
    assert conditional < 0.8 * unconditional


def test_training_measures_the_property_of_molecules(tmp_path: Path) -> None:
    data = SmallMoleculesDataModule(3, batch_size=8)
    network = EGNNDenoiser(data.sample_shape[1] - 3, TIMESTEPS, width=8, num_blocks=1, longest=1.0, num_context=1)
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS), condition="alpha")
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    limits = {"max_steps": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet, **limits).fit(module, datamodule=data)
    values = data.table("train").attributes["alpha"].double()
    assert float(network.context_mean) == pytest.approx(float(values[values.isfinite()].mean()), rel=1e-5)
