"""A small conditional denoiser on disk, and guided trajectories of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from tiny_runs import seeded

from tag_lightning.datamodules import GuidedTrajectoriesDataModule
from tag_lightning.diffusion import Conditioning, LinearSchedule
from tag_lightning.pretrained import save_pretrained


def write_base(folder: Path) -> str:
    """A small conditional denoiser of three classes and 20 timesteps, untrained; its name."""
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    unet = seeded(lambda: UNet2DModel(**shape, **blocks, attention_head_dim=4, num_class_embeds=4), 0)
    Conditioning.for_training(unet, "label", 0.1)
    save_pretrained(folder, unet, LinearSchedule(20))
    return str(folder)


def data(base: str, cache: Path, **changes: Any) -> GuidedTrajectoriesDataModule:
    """Twenty trajectories of three steps each."""
    settings: dict[str, Any] = {"num_trajectories": 20, "num_steps": 3, "chunk_size": 8, "batch_size": 4}
    return GuidedTrajectoriesDataModule(base, cache=str(cache), **(settings | changes))
