"""Guided sampling at the end of validation, with and without TAG, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from tag_lightning.callbacks.arm_runner import ArmRunner
from tag_lightning.callbacks.arms import Arm, default_arms, require_names
from tag_lightning.callbacks.load_task import FeatureChoice, TaskSettings, load_task
from tag_lightning.callbacks.report import Report
from tag_lightning.callbacks.results import require_writable
from tag_lightning.callbacks.sampling_networks import SamplingNetworks, load_denoiser, load_predictors
from tag_lightning.callbacks.task import ArmResult

from tag_lightning.diffusion import DDIM, Solver
from tag_lightning.guidance import PolyakStrength, Strength
from tag_lightning.networks.probe import require_accepts
from tag_lightning.progress import tracked

_LEAST = {"num_samples": 2, "chunk_size": 1, "every_n_epochs": 1, "num_steps": 1, "seed": 0, "num_shown": 1}
# Most samples an arm with `trainer.fast_dev_run`.
_TRIAL = 8


class GuidedSampling(Callback):
    """Draws samples in several ways (arms) with the networks as they are now, and reports how good they are.

    Runs after validation and testing, and under ``predict``, where it writes the samples of one arm. Each arm
    gets the same noise and the same targets, sample by sample, whatever the number of processes. Logs
    ``<arm>/fid``, ``<arm>/accuracy``, ``<arm>/time_gap`` (training timesteps) and ``<arm>/seconds`` (per
    sample); writes ``results.json``, sample grids and Time-Gap curves to the run's folder and TensorBoard.

    The Time-Gap is measured at every step on what the denoiser is about to see, after the step's correction.

    With ``trainer.fast_dev_run`` a few samples an arm are drawn, compared with a few batches of real data and shown
    as a table; nothing is written, so that a finished run in the same folder keeps its results.

    A network is named by a shipped one (``digits/denoiser``), a folder, or a checkpoint of this package.

    Args:
        denoiser: None takes the one being trained; where there is none either, nothing is sampled.
        predictor: Time predictor that corrects; None takes the one being trained.
        time_gap_predictor: A second, independently trained one that measures, since the one that corrects
            flatters itself; None measures with the one that corrects.
        guide: Classifier of clean images, or predictor of properties of clean molecules, whose gradient guides.
        judge: Another one, which scores and never guides.
        attribute: Which attribute of images guide and judge tell.
        labels: The classes asked of images, in turn; None is all of them. Molecules are asked for the properties
            of random training molecules of their size.
        features: Of the Frechet distance. ``auto`` is Inception where its weights are found, else the judge.
        physics: Judge molecules by quantum chemistry as well (GFN2-xTB, the extra ``physics``).
        arms: The ways of sampling; None is ``default_arms``.
        extra_arms: More of them, beside those of ``arms``.
        sigma: Standard deviation of the corruption in the default arms.
        scale: Guidance scale of DPS in the default arms.
        strength: Of TAG where an arm states none: a constant, or a rule; None is ``PolyakStrength()``.
        solver: Proposes the next sample; None is ``DDIM(eta=1)``.
        num_steps: Reverse steps where an arm states none.
        num_samples: Samples an arm, at least 2. Frechet distances of different numbers do not compare.
        chunk_size: Samples drawn at once.
        seed: Of noise.
        every_n_epochs: Sample in the validation after every so many epochs of ``fit``, and in that of the final
            weights; where ``fit`` ends without one, a warning says how to make the samples.
        num_shown: Samples in the grids.
        predict_arm: The arm that ``predict`` draws; None is the last.

    Raises:
        ValueError: If a setting is impossible by itself; what depends on networks or data is checked before
            training starts.
    """

    def __init__(
        self,
        denoiser: str | None = None,
        predictor: str | None = None,
        time_gap_predictor: str | None = None,
        guide: str | None = None,
        judge: str | None = None,
        attribute: str = "label",
        labels: list[int] | None = None,
        features: FeatureChoice = "auto",
        physics: bool = False,
        arms: dict[str, Arm] | None = None,
        extra_arms: dict[str, Arm] | None = None,
        sigma: float = 0.2,
        scale: float = 1.0,
        strength: float | Strength | None = None,
        solver: Solver | None = None,
        num_steps: int = 100,
        num_samples: int = 512,
        chunk_size: int = 64,
        seed: int = 0,
        every_n_epochs: int = 1,
        num_shown: int = 64,
        predict_arm: str | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.predictor = predictor
        self.time_gap_predictor = time_gap_predictor
        self.guide = guide
        self.judge = judge
        self.attribute = attribute
        self.labels = labels
        self.features = features
        self.physics = physics
        self.arms = arms
        self.extra_arms = extra_arms or {}
        self.sigma = sigma
        self.scale = scale
        self.strength = PolyakStrength() if strength is None else strength
        self.solver = solver or DDIM()
        self.num_steps = num_steps
        self.num_samples = num_samples
        self.chunk_size = chunk_size
        self.seed = seed
        self.every_n_epochs = every_n_epochs
        self.num_shown = num_shown
        self.predict_arm = predict_arm
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"sampling.{name} must be at least {least}, got {getattr(self, name)}")
        self.run_config: dict[str, Any] | None = None
        self.results: dict[str, ArmResult] = {}
        self._loaded: SamplingNetworks | None = None
        self._trial = False
        self._loaded_step: int | None = None
        # Global steps within this `fit`, None before there was any.
        self._validated_at: int | None = None
        self._sampled_at: int | None = None
        self._failure: Exception | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the networks and try every arm's settings, so that mistakes show before the training."""
        if not hasattr(pl_module, "sampling_resources"):
            if stage == "predict":
                raise ValueError(
                    f"predict draws samples, which {type(pl_module).__name__} cannot; use the configuration of a "
                    "denoiser or a time predictor"
                )
            return
        self._trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        self._loaded_step = None
        with torch.inference_mode(False):
            self._loaded = self._load(pl_module, trainer)
            if self._loaded is None:
                if stage == "predict":
                    raise ValueError("predict draws samples: set sampling.denoiser")
                rank_zero_info("No sampling.denoiser: nothing will be sampled")
                return
            require_writable(Path(trainer.default_root_dir))
            runner = self._runner(trainer, pl_module, self.num_shown)
            arms = self._arms(runner)
            require_names(arms)
            for name, arm in arms.items():
                try:
                    runner.sampler(arm, [0])
                except ValueError as error:
                    raise ValueError(f"arm {name}: {error}") from error
                if self.predictor is not None:  # one that this run will not measure
                    runner.require_measured(name, arm)
            self._chosen(runner)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded_step = checkpoint.get("global_step")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_at = self._sampled_at = self._failure = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit":
            # Whoever calls `validate` wants samples.
            self._evaluate(trainer, pl_module, "val")
            return
        self._validated_at = trainer.global_step
        if self._due(trainer):
            try:
                self._evaluate(trainer, pl_module, "val")
            except Exception as error:
                if trainer.world_size > 1:
                    raise  # the other processes wait for this one, and only its end frees them
                self._failure = error
            self._sampled_at = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._raise_failure()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where the results, if there are any, are not those of the final weights."""
        self._raise_failure()
        if self._loaded is None or self._sampled_at == trainer.global_step:
            return
        if self._validated_at == trainer.global_step:
            why = f"sampling.every_n_epochs is {self.every_n_epochs}, and its validation could not know it was the last"
        else:
            why = "no validation followed the last step (trainer.check_val_every_n_epoch, limit_val_batches, max_steps)"
        last = "nothing was sampled" if self._sampled_at is None else f"last sampled at step {self._sampled_at}"
        command = f"validate --config {Path(trainer.default_root_dir) / 'config.yaml'} --ckpt_path last"
        if not trainer.limit_val_batches:  # which that configuration repeats
            command += " --trainer.limit_val_batches 1.0"
        rank_zero_warn(
            f"fit ended at step {trainer.global_step} without samples of the final weights ({last}): {why}. To make "
            f"them: python -m tag_lightning {command}"
        )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._loaded is not None  # see `setup`
        with torch.inference_mode(False), isolate_rng():
            runner = self._runner(trainer, pl_module, self._num_samples)
            name, arm = self._chosen(runner)
            runner.require_measured(name, arm)
            result = runner.run(name, arm, "1 of 1")
            shown = replace(result, samples=result.samples[: self.num_shown])
            pictures = runner.task.pictures({name: shown}, None) if trainer.is_global_zero else {}
        if len(pictures) > 1:
            pictures.pop("arms", None)
        Report.of(trainer).write_samples(name, partial(runner.task.write, result), pictures)

    def _raise_failure(self) -> None:
        """Raise what failed in sampling now that the epoch's checkpoint is written, so that no training is lost."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step
        return last or trainer.should_stop or epoch % self.every_n_epochs == 0

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._loaded is None:
            return
        with torch.inference_mode(False), isolate_rng():
            runner = self._runner(trainer, pl_module, self.num_shown)
            arms = self._arms(runner)
            for name, arm in arms.items():
                runner.require_measured(name, arm)
            runner.task.prepare(self._reference(trainer), pl_module.device)
            self.results = {
                name: runner.run(name, arm, f"{k} of {len(arms)}") for k, (name, arm) in enumerate(arms.items(), 1)
            }
        for name, result in self.results.items():
            for metric, value in result.figures.items():
                if metric != "num_samples":
                    # Every process has the same value already.
                    pl_module.log(f"{name}/{metric}", value, sync_dist=False, rank_zero_only=False)
        # Only `fit` takes its count of steps up again from a checkpoint.
        counted = trainer.state.fn == "fit" or self._loaded_step is None
        report = Report.of(trainer)
        report.write_figures(
            self.results,
            {
                "stage": stage,
                "global_step": trainer.global_step if counted else self._loaded_step,
                "seed": self.seed,
                "features": runner.task.features_name,
                "num_reference": runner.task.num_reference,
                "reference": runner.task.reference,
                "time_gap_by": "second predictor" if self._loaded.gauge else "the predictor that corrects",
                "config": self.run_config,
            },
        )
        if trainer.is_global_zero and not self._trial:
            with torch.inference_mode(False), isolate_rng():
                report.write_pictures(runner.task.pictures(self.results, runner.predictor))

    def _load(self, pl_module: LightningModule, trainer: Trainer) -> SamplingNetworks | None:
        own, data = pl_module.sampling_resources(), trainer.datamodule  # type: ignore[attr-defined,operator]
        denoiser = load_denoiser(self.denoiser, own)
        if denoiser is None:
            return None
        if data is None:
            raise ValueError(
                "GuidedSampling needs a datamodule, which knows the samples' shape and the real data to compare with; "
                "pass datamodule=... instead of dataloaders"
            )
        example, timestep = data.example, torch.zeros(1, dtype=torch.long)
        require_accepts(denoiser.network, example.x.shape[1:], "sampling.denoiser", timestep, **example.inputs)
        sources = {"predictor": self.predictor, "time_gap_predictor": self.time_gap_predictor}
        predictors = load_predictors(sources, own, denoiser, example)
        settings = TaskSettings(
            self.guide,
            self.judge,
            self.attribute,
            self.labels,
            self.features,
            self.physics,
            self.seed,
            self._num_samples,
        )
        task = load_task(data, settings)
        return SamplingNetworks(denoiser, predictors["predictor"], predictors["time_gap_predictor"], task)

    def _runner(self, trainer: Trainer, pl_module: LightningModule, num_kept: int) -> ArmRunner:
        assert self._loaded is not None
        # Asked again, since the module brings what its predictor has measured up to date.
        pl_module.sampling_resources()  # type: ignore[operator]
        predictor = self._loaded.predictor
        runner = ArmRunner(
            denoiser=self._loaded.denoiser,
            solver=self.solver,
            task=self._loaded.task,
            predictor=predictor,
            gauge=self._loaded.gauge or predictor,
            strength=self.strength,
            num_steps=self.num_steps,
            num_samples=self._num_samples,
            chunk_size=min(self.chunk_size, self._num_samples) if self._trial else self.chunk_size,
            seed=self.seed,
            num_kept=num_kept,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            device=pl_module.device,
            show_progress=_shows_progress(trainer),
        )
        runner.to_device()
        return runner

    def _arms(self, runner: ArmRunner) -> dict[str, Arm]:
        arms = self.arms
        if arms is None:
            arms = default_arms(self.sigma, self.scale, runner.predictor is not None, runner.task.guided)
        return arms | self.extra_arms

    def _chosen(self, runner: ArmRunner) -> tuple[str, Arm]:
        arms = self._arms(runner)
        name = self.predict_arm or list(arms)[-1]
        if name not in arms:
            raise ValueError(f"sampling.predict_arm is {name}, but the arms are {', '.join(arms)}")
        return name, arms[name]

    @property
    def _num_samples(self) -> int:
        # Of a trial one chunk, but no fewer than a Frechet distance needs.
        return min(self.num_samples, max(2, min(self.chunk_size, _TRIAL))) if self._trial else self.num_samples

    def _reference(self, trainer: Trainer) -> Iterable[Any]:
        batches = trainer.datamodule.reference_dataloader()  # type: ignore[attr-defined]
        if self._trial:
            # As many batches as samples, since a batch may be of one.
            return list(islice(batches, _TRIAL))
        return tracked(batches, "measuring the real data", visible=_shows_progress(trainer))


def _shows_progress(trainer: Trainer) -> bool:
    # ``trainer.enable_progress_bar=false`` leaves no bar among the callbacks.
    return trainer.is_global_zero and trainer.progress_bar_callback is not None
