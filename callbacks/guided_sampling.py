"""Guided sampling at the end of validation, with and without TAG, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from tag_lightning.callbacks.missing_samples import missing_samples
from tag_lightning.diffusion import DDIM, Solver
from tag_lightning.evaluation import (
    Arm,
    ArmResult,
    ArmSampler,
    ChunkStore,
    FailedArmError,
    Results,
    SamplingTask,
    compare,
    default_arms,
    expanded,
)
from tag_lightning.evaluation.acceleration import Precision
from tag_lightning.evaluation.networks import load_denoiser, load_noise_level, load_time_predictor, require_schedule
from tag_lightning.evaluation.report import play_sounds, show_pictures, write_pictures, write_sounds
from tag_lightning.files import require_writable
from tag_lightning.guidance import PolyakStrength, Strength
from tag_lightning.interruption import interruption
from tag_lightning.last_checkpoint import save_last
from tag_lightning.setting_checks import named_by_text, require_distinct, settings_placed

_LEAST = {"num_samples": 2, "chunk_size": 1, "every_n_epochs": 1, "num_steps": 1, "seed": 0, "num_shown": 1}
CHUNKS_FOLDER = "sampling_chunks"
# Most samples per arm with `trainer.fast_dev_run`.
_TRIAL = 8


class GuidedSampling(Callback):
    """Compares several ways of sampling (arms) with the networks as they are now, see ``evaluation.compare``.

    Runs after validation and testing, and under ``predict``, where it writes the samples of one arm. Logs
    ``<arm>/fid``, ``<arm>/accuracy``, ``<arm>/time_gap`` (training timesteps), ``<arm>/seconds`` (per sample) and
    whatever else the task's metrics measure; writes ``results.json``, pictures and Time-Gap curves to the run's
    folder and TensorBoard. An arm that becomes NaN or infinite is marked there and costs the others nothing.

    With ``trainer.fast_dev_run`` a few samples per arm are drawn, compared with a few batches of real data and shown
    as a table; nothing is written, so that a finished run in the same folder keeps its results.

    A network is named by a shipped one (``digits/denoiser``), a folder, or a checkpoint of this package.

    Args:
        denoiser: Base diffusion model; None takes the one being trained. Without either nothing is sampled.
        predictor: Time predictor that corrects; None takes the one being trained.
        time_gap_predictor: A second, independently trained time predictor that measures the Time-Gap, since the one
            that corrects flatters itself; None measures with the one that corrects.
        noise_level: Regressor of the noise level, for arms with ``Retiming``.
        task: Kind of samples with its guide, judge and metrics; needed to sample.
        arms: Ways of sampling by name, drawn once per value of their ``sweep`` if any; None takes ``default_arms``.
        extra_arms: Further arms beside ``arms``.
        sigma: Standard deviation of the corruption in the default arms.
        scale: Guidance scale of plain DPS in the default arms.
        strong_scale: Scale of the default arm ``strong dps``, a demonstration of repair; None leaves that arm out.
        kappa: Fraction of the noise by which the arm ``fixed length`` moves; None has ``adaptive length`` in its place.
        strength: Strength of TAG in the default arms: a constant, or a rule.
        solver: Solver of the reverse process.
        num_steps: Reverse steps of arms that do not set their own.
        num_samples: Samples per arm, at least 2. Frechet distances of different numbers do not compare.
        chunk_size: Samples drawn at once; lower it if memory runs out.
        seed: Seed of noise and targets.
        precision: Precision of the denoiser's passes: ``bf16-mixed`` and ``16-mixed`` run them under autocast. The
            trainer's is of training and validation losses only.
        compile: Compile denoiser, guides and time predictors by ``torch.compile`` while samples are drawn.
        every_n_epochs: Sample in the validation after every so many epochs of ``fit``, and in that of the final
            weights; if ``fit`` ends without one, a warning says how to make the samples.
        num_shown: Samples per picture.
        predict_arm: The arm that ``predict`` draws; None takes the last.
        published: Published figures, shown beside ours: by data set, then arm, then metric.
        dataset: Name of the data set in ``published``; None is that of the datamodule's class, as ``CIFAR10``.

    Raises:
        ValueError: If a setting is impossible by itself; settings that depend on networks or data are checked before
            training starts.
    """

    def __init__(
        self,
        denoiser: str | None = None,
        predictor: str | None = None,
        time_gap_predictor: str | None = None,
        noise_level: str | None = None,
        task: SamplingTask | None = None,
        arms: dict[str, Arm] | None = None,
        extra_arms: dict[str, Arm] | None = None,
        sigma: float = 0.2,
        scale: float = 1.0,
        strong_scale: float | None = None,
        kappa: float | None = None,
        strength: float | Strength = PolyakStrength(),
        solver: Solver = DDIM(),
        num_steps: int = 100,
        num_samples: int = 512,
        chunk_size: int = 64,
        seed: int = 0,
        precision: Precision = "32-true",
        compile: bool = False,
        every_n_epochs: int = 1,
        num_shown: int = 64,
        predict_arm: str | None = None,
        published: dict[str, dict[str, dict[str, float]]] | None = None,
        dataset: str | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.predictor = predictor
        self.time_gap_predictor = time_gap_predictor
        self.noise_level = noise_level
        self.task = task
        self.arms = None if arms is None else expanded(named_by_text(arms, "sampling.arms"))
        self.extra_arms = expanded(named_by_text(extra_arms or {}, "sampling.extra_arms"))
        self.sigma, self.scale, self.kappa, self.strength = sigma, scale, kappa, strength
        self.strong_scale = strong_scale
        self.solver = solver
        self.num_steps, self.num_samples, self.chunk_size, self.seed = num_steps, num_samples, chunk_size, seed
        self.precision, self.compile = precision, compile
        self.every_n_epochs, self.num_shown = every_n_epochs, num_shown
        self.predict_arm = predict_arm
        self.published = published or {}
        self.dataset = dataset
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"sampling.{name} must be at least {least}, got {getattr(self, name)}")
        self.run_config: dict[str, Any] | None = None
        self.results: Mapping[str, ArmResult] = {}
        # The settings that all arms share, see `ArmSampler`; None if nothing is sampled.
        self._common: dict[str, Any] | None = None
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
        owners = {"sampling.task.init_args": type(self.task), "sampling": type(self)}
        with torch.inference_mode(False), settings_placed(owners):
            self._common = self._load(trainer, pl_module)
            if self._common is None:
                own = pl_module.sampling_resources()  # type: ignore[operator]
                missing = "task" if "denoiser" in own else "denoiser"
                if stage == "predict":
                    raise ValueError(f"predict draws samples: set sampling.{missing}")
                rank_zero_info(f"No sampling.{missing}: nothing will be sampled")
                return
            require_writable(Path(trainer.default_root_dir))
            sampler = ArmSampler(**self._common, device=pl_module.device)
            # The predictor of this run may still be measured.
            sampler.require_possible(self._arms(), measured=self.predictor is not None)
            self._chosen()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded_step = checkpoint.get("global_step")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_at = self._sampled_at = self._failure = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before what may take hours; weights are averaged from the start of the validation's epoch on."""
        if self._samples_in_fit(trainer) and self._due(trainer):
            interruption.checkpoint = save_last(trainer, before_validation=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit":
            # `validate` is called for the samples, whatever `every_n_epochs` says.
            self._evaluate(trainer, pl_module, "val")
            return
        self._validated_at = trainer.global_step
        if self._due(trainer):
            try:
                self._evaluate(trainer, pl_module, "val")
            except Exception as error:
                if trainer.world_size > 1 and not isinstance(error, FailedArmError):
                    raise  # the other processes wait for this one, and only its end frees them
                self._failure = error
            self._sampled_at = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save that the validation is done: a run resumed from before it would repeat it, and its points in curves."""
        if self._samples_in_fit(trainer) and self._sampled_at == trainer.global_step and self._failure is None:
            interruption.checkpoint = save_last(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._raise_failure()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the results, if there are any, are not those of the final weights."""
        self._raise_failure()
        if self._common is None or self._sampled_at == trainer.global_step:
            return
        rank_zero_warn(missing_samples(trainer, self.every_n_epochs, self._validated_at, self._sampled_at))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._common is not None  # see `setup`
        store = self._store(trainer)
        common = self._common | {"num_kept": self._num_samples, "store": store}
        with torch.inference_mode(False), isolate_rng():
            sampler = ArmSampler(**common, device=pl_module.device)
            name, arm = self._chosen()
            sampler.require_possible({name: arm})
            result = sampler.draw(name, arm)
            interruption.chunks = None
            if self._trial or not trainer.is_global_zero:
                return
            folder, task = Path(trainer.default_root_dir), sampler.task
            paths = task.write(result, folder / "samples", name)
            if store is not None:
                store.remove()
            shown = replace(result, samples=result.samples[: self.num_shown])
            pictures = task.pictures({name: shown}, None)
        pictures.pop("arms", None)
        write_pictures(folder, pictures)
        print(f"The samples are in {', '.join(map(str, paths))}, pictures in {folder}")

    def require_all_drawn(self, trainer: Trainer) -> None:
        """Check that no arm failed in the latest evaluation; its files are written by then.

        Raises:
            FailedArmError: Names each failed arm and its error.
        """
        if isinstance(self.results, Results):
            self.results.require_all_drawn(None if self._trial else Path(trainer.default_root_dir) / "results.json")

    def _raise_failure(self) -> None:
        """Raise what failed in sampling now that the epoch's checkpoint is written, so that no training is lost."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _samples_in_fit(self, trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking and self._common is not None

    def _due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step
        return last or trainer.should_stop or epoch % self.every_n_epochs == 0

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._common is None:
            return
        # Brings up to date what the predictor of this run has measured.
        pl_module.sampling_resources()  # type: ignore[operator]
        store = self._store(trainer)
        with torch.inference_mode(False), isolate_rng(), interruption.released():
            results = compare(
                self._arms(),
                num_samples=self._num_samples,
                seed=self.seed,
                reference=self._trial_reference(trainer) if self._trial else None,
                device=pl_module.device,
                store=store,
                **self._common,
            )
        interruption.chunks = None
        data = self.dataset or type(trainer.datamodule).__name__.removesuffix("DataModule")  # type: ignore[attr-defined]
        results.published = self.published.get(data, {})
        self.results = results
        for name, result in results.items():
            for metric, value in result.figures.items():
                if metric != "num_samples":
                    # Every process has the same value already.
                    pl_module.log(f"{name}/{metric}", value, sync_dist=False, rank_zero_only=False)
        if trainer.is_global_zero:
            # Only `fit` takes its count of steps up again from a checkpoint.
            step = trainer.global_step if trainer.state.fn == "fit" else self._loaded_step or trainer.global_step
            self._report(trainer, results, stage, step, store)

    def _store(self, trainer: Trainer) -> ChunkStore | None:
        """Chunks of an evaluation that was interrupted, those of each verb by themselves; none in a trial."""
        if self._trial:
            return None
        interruption.chunks = folder = Path(trainer.default_root_dir) / CHUNKS_FOLDER
        return ChunkStore(folder / str(trainer.state.fn.value))  # type: ignore[union-attr]

    def _report(
        self, trainer: Trainer, results: Results, stage: str, global_step: int, store: ChunkStore | None
    ) -> None:
        """Print and write the figures before anything else can fail, then the pictures; an unknown step is 0."""
        results.print(f"Guided sampling at step {global_step}" if global_step else "Guided sampling")
        if self._trial:
            return
        folder = Path(trainer.default_root_dir)
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        # Beside the scalars of this moment: Lightning numbers them by the step just taken, from 0.
        step = max(0, trainer.global_step - 1)
        show_pictures(boards, results.save_figures(folder, self.run_config, stage=stage, global_step=global_step), step)
        if store is not None:
            store.remove()
        if (frontier := results.save_frontier(folder)) is not None:
            frontier.print()
            show_pictures(boards, frontier.pictures(), step)
        with torch.inference_mode(False), isolate_rng():
            pictures, sounds = results.pictures(), results.sounds()
        write_pictures(folder, pictures)
        show_pictures(boards, pictures, step)
        write_sounds(folder, sounds)
        play_sounds(boards, sounds, step)
        print(f"Results and pictures are in {folder}")

    def _load(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any] | None:
        own, data = pl_module.sampling_resources(), trainer.datamodule  # type: ignore[attr-defined,operator]
        if self.denoiser is not None and self.task is None:
            raise ValueError(
                "sampling.denoiser is set, but sampling.task is not; add the kind of samples to the configuration: "
                "sampling: {task: {class_path: ImageTask}} (or MoleculeTask, VectorTask, a SamplingTask of your own)"
            )
        source = own.get("denoiser") if self.denoiser is None else self.denoiser
        if source is None or self.task is None:
            return None
        if data is None:
            raise ValueError(
                "GuidedSampling needs a datamodule, which knows the samples' shape and the real data to compare with; "
                "pass datamodule=... instead of dataloaders"
            )
        denoiser = load_denoiser(source, data.example, data)
        predictors = {
            role: load_time_predictor(getattr(self, role), role, denoiser, data.example)
            for role in ("predictor", "time_gap_predictor")
        }
        if predictors["predictor"] is None and "predictor" in own:
            predictors["predictor"] = own["predictor"]
            require_schedule(own["predictor_schedule"], denoiser, "the time predictor")
        return {
            "denoiser": denoiser,
            "task": self.task.for_data(data).for_samples(self._num_samples, self.seed),
            **predictors,
            "noise_level": load_noise_level(self.noise_level, denoiser, data.example),
            "solver": self.solver,
            "num_steps": self.num_steps,
            "chunk_size": self.chunk_size,
            "precision": self.precision,
            "compile": self.compile,
            "num_kept": self.num_shown,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
            # None with ``trainer.enable_progress_bar=false``.
            "progress": trainer.is_global_zero and trainer.progress_bar_callback is not None,
        }

    def _arms(self) -> dict[str, Arm]:
        assert self._common is not None
        if (arms := self.arms) is None:
            guided = self._common["task"].guided
            predicted, levelled = (self._common[network] is not None for network in ("predictor", "noise_level"))
            settings = (self.sigma, self.scale, self.kappa, self.strength)
            arms = default_arms(*settings, predicted, levelled, guided, self.strong_scale)
        require_distinct(arms, self.extra_arms)
        return arms | self.extra_arms

    @property
    def arm_names(self) -> list[str]:
        """Names of the arms, none if nothing is sampled."""
        return list(self._arms()) if self._common else []

    def _chosen(self) -> tuple[str, Arm]:
        """The arm that ``predict`` draws."""
        arms = self._arms()
        name = self.predict_arm or list(arms)[-1]
        if name not in arms:
            raise ValueError(f"sampling.predict_arm is {name}, but the arms are {', '.join(arms)}")
        return name, arms[name]

    @property
    def _num_samples(self) -> int:
        # One chunk in a trial, but no fewer samples than a Frechet distance needs.
        return min(self.num_samples, max(2, min(self.chunk_size, _TRIAL))) if self._trial else self.num_samples

    def _trial_reference(self, trainer: Trainer) -> Iterable[Any]:
        # As many batches as samples, since a batch may be of one.
        return islice(trainer.datamodule.reference_dataloader(), _TRIAL)  # type: ignore[attr-defined]
