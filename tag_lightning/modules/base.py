"""The base of all modules: optimizer, reproducible randomness, self-describing checkpoints."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from tag_lightning.diffusion import NoiseSchedule, centred
from tag_lightning.evaluation_mode import evaluating
from tag_lightning.metrics import Mean
from tag_lightning.networks.frozen_base import OnFrozenBase
from tag_lightning.networks.trial_run import require_accepts
from tag_lightning.pretrained import constructor_defaults, describe, load_pretrained, require_same
from tag_lightning.pretrained.store import CHECKPOINT_KEY

# Arguments of torch's schedulers, with the value that leaves them to the length of the run. T_max is required there.
_LENGTH_OF_RUN = (("total_steps", None), ("T_max", -1))


class NetworkModule(LightningModule):
    """Trains one network.

    Args:
        network: A network of diffusers or of ``tag_lightning.networks``.
        schedule: The noise schedule, for networks of noisy samples.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step. Without ``total_steps``, and
            with a ``T_max`` of -1, it is as long as the run.
        seed: Seed of timesteps and noise in training and validation.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule | None,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.seed = seed
        # Logged by every process when the epoch ends; otherwise one without batches would block the others.
        self.mean_loss = Mean()

    def setup(self, stage: str) -> None:
        """Run the network on one sample, to reveal a mismatch before the first step.

        Raises:
            ValueError: If the network cannot take the samples of the datamodule.
        """
        if isinstance(self.network, OnFrozenBase):  # whose base is in evaluation mode on purpose
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None or not hasattr(datamodule, "example"):  # plain loaders, or data of another kind
            return
        with isolate_rng(), evaluating(self.network):
            self.try_network(datamodule.example)

    def try_network(self, example: Any) -> None:
        """Run the network on one sample's shape; ``example`` is a batch of one."""
        require_accepts(self.network, example.x.shape[1:], "model.network", **example.inputs)

    def load_weights(self, source: str | Path) -> None:
        """Take the weights of a saved network of the same architecture and noise schedule.

        Args:
            source: A shipped network's name, such as ``digits/time_predictor``, or a folder as ``fit`` exports it.

        Raises:
            ValueError: If the network differs; names the differences.
        """
        saved = load_pretrained(source)
        require_same(describe(saved.network, saved.schedule), describe(self.network, self.schedule), str(source))
        self.network.load_state_dict(saved.network.state_dict())

    @abstractmethod
    def evaluate(self, batch: Any, batch_idx: int) -> None:
        """Add one non-empty batch to the metrics of validation and test."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if len(batch.x):  # a process may have no data
            self.evaluate(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.mean_loss, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self.log("test/loss", self.mean_loss)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer, **self._length_of_run())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _length_of_run(self) -> dict[str, int]:
        """The number of training steps as the argument of the scheduler that leaves it open, if it does."""
        settings = getattr(self.lr_scheduler, "keywords", {})  # of the partial that the command line makes
        name = next((name for name, value in settings.items() if (name, value) in _LENGTH_OF_RUN), None)
        if name is None or settings.get("epochs") is not None:
            return {}
        planned = self.trainer.estimated_stepping_batches
        if planned == math.inf:
            raise ValueError(
                f"the run has no end that model.lr_scheduler.{name} could follow from; set trainer.max_steps or "
                f"trainer.max_epochs, or model.lr_scheduler.init_args.{name}"
            )
        return {name: int(planned)}

    def on_train_start(self) -> None:
        """Check that the learning rate schedule is at least as long as the run.

        Raises:
            ValueError: If the schedule has fewer steps than the run, including the steps before a resume.
        """
        planned = self.trainer.estimated_stepping_batches
        for config in self.trainer.lr_scheduler_configs:
            total = getattr(config.scheduler, "total_steps", None)
            if total is not None and planned > total:
                raise ValueError(
                    f"the schedule of the learning rate ends after {total} steps but the run takes {planned}: set "
                    f"--model.lr_scheduler.total_steps {planned}, or shorten the run by --trainer.max_steps {total} "
                    "(a resumed run keeps the schedule that it began with)"
                )

    @property
    def sanity_checking(self) -> bool:
        """Return whether this validation only shows that it can run; its figures count for nothing."""
        return self._trainer is not None and self.trainer.sanity_checking

    @property
    def batches_trained(self) -> int:
        """Number of completed training batches, including those before a resume; 0 without a trainer.

        With accumulated gradients several batches share one ``global_step``.
        """
        if self._trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.state_dict()["processed"]

    def generator(self, index: int) -> torch.Generator:
        """Randomness of one batch: the ``index``-th of the run in training, of its epoch in evaluation.

        In training every process has its own stream, which a resumed run continues. In evaluation, where processes
        take batches in turn, the noise of a batch does not depend on the number of processes.
        """
        stream, rank = 0, self.global_rank
        if not self.training:
            stream, index, rank = 1, index * self._world_size + rank, 0
        return torch.Generator(self.device).manual_seed(self._key(stream, index, rank))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout, which draws from torch's global generators, so that a resumed run continues it too."""
        # Negative seeds are streams that `generator` never has: the same one would drop pixels by their own noise.
        torch.manual_seed(-1 - self._key(0, self.batches_trained, self.global_rank))

    def _key(self, stream: int, index: int, rank: int) -> int:
        return ((self.seed * 2 + stream) * 1_000_003 + index) * 64 + rank

    def blurred(self, x: Tensor, noise: float) -> Tensor:
        """Training batch ``x [B, ...]`` plus Gaussian noise of standard deviation ``noise``."""
        if noise == 0:
            return x
        generator = self.generator(self.batches_trained)
        return x + noise * torch.randn(x.shape, generator=generator, device=x.device)

    @property
    def _world_size(self) -> int:
        return 1 if self._trainer is None else self.trainer.world_size

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[()]:
        """Do nothing: ``GuidedSampling`` draws the samples."""
        return ()  # Lightning warns about None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = describe(self.network, self.schedule)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if CHECKPOINT_KEY not in checkpoint:
            raise ValueError("the checkpoint was not made by tag_lightning: it does not describe its network")
        saved, current = checkpoint[CHECKPOINT_KEY], describe(self.network, self.schedule)
        require_same(saved, current, "the checkpoint", constructor_defaults(self.network))


def noised(
    x0: Tensor,
    schedule: NoiseSchedule,
    generator: torch.Generator,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise to clean samples at randomly drawn timesteps.

    Args:
        x0: Clean samples ``[B, ...]``.
        schedule: The noise schedule.
        generator: Random generator on the device of ``x0``.
        mask: Mask ``[B, N]`` of point clouds, whose noise is centred and masked.
        weights: Relative probability of each timestep, ``[T]``; None draws uniformly.

    Returns:
        The noisy samples ``[B, ...]``, the noise in them ``[B, ...]``, their timesteps ``[B]``.
    """
    if weights is None:
        timesteps = torch.randint(schedule.num_timesteps, (len(x0),), generator=generator, device=x0.device)
    else:
        timesteps = torch.multinomial(weights.to(x0.device), len(x0), replacement=True, generator=generator)
    epsilon = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    if mask is not None:
        epsilon = centred(epsilon, mask)
    return schedule.add_noise(x0, epsilon, timesteps), epsilon, timesteps
