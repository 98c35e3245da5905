"""Training of the time predictor."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from tag_lightning.diffusion import LinearSchedule, NoiseSchedule
from tag_lightning.metrics import NLLQuantiles, TimeCalibration, TimeGap, TypicalNLL
from tag_lightning.modules.base import NetworkModule, noised
from tag_lightning.networks import TimePredictor
from tag_lightning.networks.time_predictor import ConditionedTimePredictor
from tag_lightning.networks.trial_run import require_accepts


class TimePredictorModule(NetworkModule):
    """Trains a network to predict the timestep of a noisy sample (arXiv 2510.11057), by cross-entropy over T timesteps.

    Logs ``train/loss`` and, on forward-noised validation data, ``val/loss`` (nats), ``val/time_gap`` (training
    timesteps, the predictor's own floor), ``val/time_gap_tenth_0`` (cleanest) to ``_9`` (noisiest), and the
    calibration of its posterior as ``val/calibration_*``. The mean negative log-likelihood of real data at
    every timestep is stored in the network as ``typical_nll``, its quantiles as ``nll_quantiles``, for self-calibrating
    strengths.

    Args:
        network: Maps noisy samples to logits ``[B, T]``.
        schedule: Noise schedule of the denoiser to correct; None is ``LinearSchedule()``.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        noise_draws: Noise draws per validation sample; more make ``typical_nll`` smoother.
        emphasis: Share of the training samples drawn at timesteps that can be told apart, in proportion to the relative
            growth of the noise variance from one timestep to the next; the others are drawn uniformly. The loss adds
            the log-probabilities of the draw to the logits (Menon et al. 2021, arXiv 2007.07314), so that the network's
            posterior remains that of uniform timesteps. 0 is the published training.
        seed: Seed of timesteps and noise.

    Raises:
        ValueError: If network and schedule differ in their number of timesteps.
    """

    network: TimePredictor
    schedule: NoiseSchedule

    def __init__(
        self,
        network: TimePredictor,
        schedule: NoiseSchedule | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        noise_draws: int = 16,
        emphasis: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, schedule or LinearSchedule(), optimizer, lr_scheduler, seed)
        total = self.schedule.num_timesteps
        if network.num_timesteps != total:
            raise ValueError(
                f"the time predictor tells {network.num_timesteps} timesteps apart but the schedule has {total}; "
                "set model.init_args.network.init_args.num_timesteps to the schedule's"
            )
        if noise_draws < 1:
            raise ValueError(f"noise_draws must be at least 1, got {noise_draws}")
        if not 0 <= emphasis <= 1:
            raise ValueError(f"emphasis is a share in [0, 1], got {emphasis}")
        self.noise_draws = noise_draws
        self._weights = timestep_weights(self.schedule, emphasis) if emphasis else None
        self.time_gap = TimeGap(total)
        self.calibration = TimeCalibration(total)
        self.typical_nll = TypicalNLL(total, window=total // 50)
        self.nll_quantiles = NLLQuantiles(total, network.quantile_levels, window=total // 50)
        self._validated = False

    def setup(self, stage: str) -> None:
        """Check the data against the network's conditions; before training, measure their mean and spread."""
        embedding, datamodule = self.network.embedding, getattr(self.trainer, "datamodule", None)
        if embedding is not None and datamodule is not None:
            available = datamodule.example.attributes
            missing = [name for name in embedding.names if name not in available]
            if missing:
                raise ValueError(
                    f"the time predictor is conditioned on {missing[0]!r}, but the data carry "
                    f"{', '.join(available) or '(none)'}; change its conditions, or the attributes of the data"
                )
            if stage == "fit":
                embedding.measure(batch.attributes for batch in datamodule.reference_dataloader())
        super().setup(stage)

    def try_network(self, example: Any) -> None:
        conditions = {name: example.attributes[name] for name in self.network.conditions}
        require_accepts(self.network, example.x.shape[1:], "model.network", **example.inputs, **conditions)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        generator = self.generator(self.batches_trained)
        x_t, _, timesteps = noised(batch.x, self.schedule, generator, batch.inputs.get("mask"), self._weights)
        logits = self._logits(x_t, batch)
        if self._weights is not None:
            logits = logits + self._weights.log().to(logits)
        loss = F.cross_entropy(logits, timesteps)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        generator = self.generator(batch_idx)
        for _ in range(1 if self.sanity_checking else self.noise_draws):
            x_t, _, timesteps = noised(batch.x, self.schedule, generator, batch.inputs.get("mask"))
            logits = self._logits(x_t, batch)
            self.mean_loss.update(F.cross_entropy(logits, timesteps), len(timesteps))
            self.time_gap.update(logits, timesteps)
            self.calibration.update(logits, timesteps)
            self.typical_nll.update(logits, timesteps)
            self.nll_quantiles.update(logits, timesteps)

    def on_validation_epoch_start(self) -> None:
        self._reset()
        self._validated = not self.trainer.sanity_checking

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._store_typical_nll()
        self._log_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._reset()
        self._validated = False  # measurements on test data are not stored

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_evaluation("test")

    def sampling_resources(self) -> dict[str, Any]:
        """The time predictor, with ``typical_nll`` up to date, and its schedule, for guided sampling."""
        self._store_typical_nll()
        return {"predictor": self.network, "predictor_schedule": self.schedule}

    def _logits(self, x_t: Tensor, batch: Any) -> Tensor:
        return ConditionedTimePredictor(self.network, batch.attributes)(x_t, **batch.inputs)

    def _reset(self) -> None:
        for metric in (self.time_gap, self.calibration, self.typical_nll, self.nll_quantiles):
            metric.reset()

    def _store_typical_nll(self) -> None:
        # Without a validation, and under `test`, the stored values remain.
        if not self._validated:
            return
        mean, quantiles = self.typical_nll.compute(), self.nll_quantiles.compute()
        for network in (self.network, *self._averaged()):
            network.typical_nll.copy_(mean)
            network.nll_quantiles.copy_(quantiles)

    def _averaged(self) -> list[TimePredictor]:
        # Callbacks that average weights swap them around a validation and average buffers as well, so both networks
        # need the values: NaN in one of them would spread.
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        averages = [callback._average_model for callback in callbacks if isinstance(callback, WeightAveraging)]
        return [cast(TimePredictor, average.module.network) for average in averages if average is not None]

    def _log_evaluation(self, verb: str) -> None:
        values = {f"{verb}/time_gap": self.time_gap.compute()}
        values |= {f"{verb}/time_gap_tenth_{i}": gap for i, gap in enumerate(self.time_gap.per_tenth())}
        values |= {f"{verb}/calibration_{name}": value for name, value in self.calibration.compute().items()}
        # With fewer than ten timesteps some tenths are empty.
        self.log_dict({name: value.float() for name, value in values.items() if not value.isnan()})


def timestep_weights(schedule: NoiseSchedule, emphasis: float) -> Tensor:
    """Probability of each timestep, ``[T]``: ``emphasis`` by the growth of the log noise variance, the rest uniform."""
    variance = (1 - schedule.alphas_cumprod.double()).cpu()
    growth = variance.log().diff()
    growth = torch.cat((growth[:1], growth)).clamp(min=0)  # the first timestep has none before it
    total = len(growth)
    return (emphasis * growth / growth.sum() + (1 - emphasis) / total).clamp(min=1e-12).float()
