"""Small untrained networks on disk, and command lines that use them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import UNet2DModel
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import nn

from tag_lightning.diffusion import LinearSchedule
from tag_lightning.evaluation import ArmSampler
from tag_lightning.evaluation.chunk_store import ChunkStore
from tag_lightning.networks import ImageClassifier, SimpleCNN
from tag_lightning.pretrained import save_pretrained

TASK = "--sampling.task.init_args"
TIMESTEPS = 20
SIZE = 8
UNET = {
    "sample_size": SIZE,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


class TinyNetworks(NamedTuple):
    """Folders of untrained networks for tinted 8x8 digits and 20 timesteps.

    Attributes:
        root: Holds the folders ``denoiser``, ``predictor``, ``guide`` and ``judge``.
    """

    root: Path

    @property
    def sources(self) -> list[str]:
        """Arguments that name all networks of guided sampling."""
        roles = {"denoiser": "denoiser", "time_gap_predictor": "predictor"}
        roles |= {f"task.init_args.{role}": role for role in ("guide", "judge")}
        return [f"--sampling.{role}={self.root / folder}" for role, folder in roles.items()]


def random_images(root: Path) -> Path:
    """A folder of 32x32 images of ten classes, four of each to train on and one to test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for label in range(10):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What ``build`` makes, with the weights that follow from ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def write_networks(root: Path) -> TinyNetworks:
    """Write all four networks into folders of ``root``."""
    schedule = LinearSchedule(num_timesteps=TIMESTEPS)
    save_pretrained(root / "denoiser", seeded(lambda: UNet2DModel(**UNET), 0), schedule)
    predictor = seeded(lambda: SimpleCNN(SIZE, num_timesteps=TIMESTEPS, widths=(8, 8)), 1)
    predictor.typical_nll.fill_(1.0)
    save_pretrained(root / "predictor", predictor, schedule)
    for seed, name in ((2, "guide"), (3, "judge")):
        save_pretrained(root / name, seeded(lambda: ImageClassifier(widths=(8, 8)), seed), None)
    return TinyNetworks(root)


def fit_briefly(module: LightningModule, folder: Path, data: LightningDataModule, *callbacks: Any) -> Trainer:
    """Five training steps and one validation batch, nothing written but what callbacks write."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=5,
        limit_val_batches=1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def base_arguments(verb: str, run: Path) -> list[str]:
    """A verb on small digits in the folder ``run``; ``fit`` takes two steps, others need no checkpoint."""
    arguments = [
        verb,
        "--data=DigitsDataModule",
        f"--data.init_args.size={SIZE}",
        "--data.init_args.batch_size=64",
        f"--trainer.default_root_dir={run}",
        "--trainer.accelerator=cpu",
        "--trainer.limit_val_batches=2",
        "--trainer.limit_test_batches=2",
        "--sampling.num_steps=4",
        "--sampling.num_samples=6",
        "--sampling.chunk_size=4",
        "--sampling.task=ImageTask",
        f"{TASK}.features=judge",
    ]
    if verb == "fit":
        return [*arguments, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    return [*arguments, "--ckpt_path=untrained"]


def predictor_arguments(verb: str, run: Path, tiny: TinyNetworks, *more: str) -> list[str]:
    """As ``base_arguments``, with a time predictor as the model and all networks to sample with."""
    model = [
        "--model=tag_lightning.modules.TimePredictorModule",
        "--model.init_args.network=tag_lightning.networks.SimpleCNN",
        f"--model.init_args.network.init_args.sample_size={SIZE}",
        f"--model.init_args.network.init_args.num_timesteps={TIMESTEPS}",
        "--model.init_args.network.init_args.widths=[8,8]",
        "--model.init_args.schedule=tag_lightning.diffusion.LinearSchedule",
        f"--model.init_args.schedule.init_args.num_timesteps={TIMESTEPS}",
        "--model.init_args.noise_draws=2",
    ]
    return [*base_arguments(verb, run), *model, *tiny.sources, *more]


def denoiser_arguments(verb: str, run: Path, *more: str) -> list[str]:
    """As ``base_arguments``, with a denoiser as the model, without networks to judge its samples."""
    prefix = "--model.init_args.network"
    model = ["--model=tag_lightning.modules.DiffusionModule", f"{prefix}=diffusers.UNet2DModel"]
    model += [f"{prefix}.init_args.{name}={_plain(value)}" for name, value in UNET.items()]
    model += [
        "--model.init_args.schedule=tag_lightning.diffusion.LinearSchedule",
        f"--model.init_args.schedule.init_args.num_timesteps={TIMESTEPS}",
    ]
    return [*base_arguments(verb, run), *model, *more]


def _plain(value: object) -> str:
    return str(value).replace("'", "").replace(" ", "")


class SlowSteps(Callback):
    """Waits in every training step, so that there is time to interrupt a run."""

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(0.1)


class FailingStep(Callback):
    """Ends a run after a training step, without any of Lightning's tidying.

    Args:
        step: Steps taken by then.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("failed as asked for")


class SignalSender(Callback):
    """Sends a signal to its own process, once.

    Args:
        hook: Hook to send it in.
        step: Global step to send it at.
        signum: Number of the signal.
    """

    def __init__(self, hook: str, step: int, signum: int) -> None:
        def send(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == step and not trainer.sanity_checking and not self.sent:
                self.sent = True
                os.kill(os.getpid(), signum)

        self.sent = False
        setattr(self, hook, send)


class SaidBeforeDraw(Callback):
    """Says ``drawing`` when the first arm is about to be drawn."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        draw = ArmSampler.draw

        def said(*given: Any) -> Any:
            print("drawing", flush=True)
            return draw(*given)

        ArmSampler.draw = said  # type: ignore[method-assign]


class DyingRank(Callback):
    """Kills one process when it is about to draw its first arm, and leaves the file ``died`` behind.

    Args:
        rank: Number of the process.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        def die(*given: Any) -> None:
            (Path(trainer.default_root_dir) / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

        if trainer.global_rank == self.rank:
            ArmSampler.draw = die  # type: ignore[method-assign,assignment]


class KilledAtChunk(Callback):
    """Kills its own process without warning when a chunk of samples is finished but not written.

    Args:
        count: Chunks written by then.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def setup(self, *args: Any, **kwargs: Any) -> None:
        write = ChunkStore.write

        def counted(store: ChunkStore, *given: Any) -> None:
            if self.count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count -= 1
            write(store, *given)

        ChunkStore.write = counted  # type: ignore[method-assign]
