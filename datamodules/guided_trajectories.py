"""Trajectories of classifier-free guidance: training data for adapters that imitate it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.drawn_chunks import BOUNDS, chunk_folder, drawn_chunks, image_denoiser
from tag_lightning.diffusion import DDIM, Denoiser, Guidance, ImageSpace, Predict, Prediction, Sampler, Step
from tag_lightning.guidance.classifier_free import extrapolated

# The fractional parts of its multiples spread evenly over [0, 1], however many there are.
_GOLDEN_RATIO = (5**0.5 - 1) / 2


class GuidedStates(NamedTuple):
    """States of guided trajectories, a ``Batch`` of noisy samples with the answers of the guidance about them.

    Attributes:
        x: Noisy samples ``[B, C, H, W]``, as the denoiser saw them.
        attributes: The condition by its name, ``[B]``.
        inputs: ``guidance_scale [B]``.
        timesteps: Their training timesteps ``[B]``.
        epsilon: The noise that the guidance predicted, ``[B, C, H, W]``.
    """

    x: Tensor
    attributes: dict[str, Tensor]
    inputs: dict[str, Tensor]
    timesteps: Tensor
    epsilon: Tensor


class GuidedTrajectoriesDataModule(TableDataModule):
    """Every state of trajectories drawn by classifier-free guidance, with the guided noise.

    Adapter guidance distillation trains on these rather than on noised data, since they are the states that sampling
    will meet (Jensen and Sadat 2025, arXiv 2503.07274, Section 4). No real data are needed. Each trajectory has a
    class of its own in turn and a scale of its own, spread evenly over the range; the splits hold 80 / 10 / 10 % of the
    trajectories. They are drawn once on each kind of device, in chunks that are kept as they are finished.

    Args:
        denoiser: A conditional denoiser of images, trained with its class dropped at random: a shipped network's name,
            a folder, or a checkpoint.
        num_trajectories: Trajectories drawn, at least 20.
        num_steps: Reverse steps of DDIM in each, all of which are kept.
        eta: Noise of DDIM, in [0, 1].
        min_scale: Smallest guidance scale, at least 0.
        max_scale: Largest guidance scale, above the smallest; 1 to 6 is published.
        sampling_seed: Seed of the trajectories' noise.
        shape: ``[C, H, W]`` of an image; None asks the network's configuration (``in_channels``, ``sample_size``).
        chunk_size: Trajectories drawn at once.
        cache: Folder of the drawn trajectories, in half precision.
        accelerator: Device that draws, ``cpu`` or ``cuda``; None takes a GPU if there is one.
        batch_size: States per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Raises:
        ValueError: If a number is out of range, or the network is not a denoiser of classes with a null class.
    """

    def __init__(
        self,
        denoiser: str,
        num_trajectories: int = 512,
        num_steps: int = 50,
        eta: float = 0.0,
        min_scale: float = 1.0,
        max_scale: float = 6.0,
        sampling_seed: int = 0,
        shape: list[int] | None = None,
        chunk_size: int = 64,
        cache: str = "data/trajectories",
        accelerator: str | None = None,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size, **kwargs)
        counts = (
            ("num_trajectories", num_trajectories, 20),
            ("num_steps", num_steps, 1),
            ("chunk_size", chunk_size, 1),
        )
        for name, value, least in counts:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}; set data.init_args.{name}")
        if not 0 <= min_scale < max_scale < float("inf"):
            raise ValueError(
                f"min_scale and max_scale must satisfy 0 <= min < max < infinity, got {min_scale} and {max_scale}"
            )
        self.denoiser = denoiser
        self.num_trajectories = num_trajectories
        self.num_steps = num_steps
        self.solver = DDIM(eta)
        self.scale_range = (min_scale, max_scale)
        self.sampling_seed = sampling_seed
        self.shape = None if shape is None else tuple(shape)
        self.chunk_size = chunk_size
        self.cache = Path(cache)
        self.device = torch.device(accelerator or ("cuda" if torch.cuda.is_available() else "cpu"))

    def prepare_data(self) -> None:
        """Draw the trajectories that are not in the cache yet."""
        self._chunks()

    def build(self, split: Split) -> Dataset:
        chunks = self._chunks()
        drawn = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        first, last = (round(self.num_trajectories * share) for share in BOUNDS[split])
        return _StateTable({name: values[first:last] for name, values in drawn.items()}, self._attribute)

    def _chunks(self) -> list[dict[str, Tensor]]:
        denoiser, shape = image_denoiser(self.denoiser, self.shape)
        conditioning = denoiser.conditioning
        if conditioning is None or not conditioning.has_null or conditioning.num_classes is None:
            raise ValueError(
                f"denoiser {self.denoiser} is not told a class that was dropped at random in training, so there is no "
                "classifier-free guidance to imitate; give a conditional one, such as digits/conditional_denoiser"
            )
        self._attribute, count = conditioning.attribute, conditioning.num_classes
        self.num_classes = {conditioning.attribute: count}
        read_as = f"{denoiser.prediction_type} {denoiser.clip_range}"
        settings = f"{self.num_steps} {self.solver.eta} {self.scale_range} {self.sampling_seed} {shape} {read_as}"
        folder = chunk_folder(self.cache, settings, self.device, denoiser)
        denoiser.to(self.device)

        def draw(indices: range) -> dict[str, Tensor]:
            numbers = torch.tensor(indices)
            low, high = self.scale_range
            scales = low + (high - low) * (((numbers + 0.5) * _GOLDEN_RATIO) % 1)
            labels = numbers % count
            space = ImageSpace(shape, indices, self.device)
            space.denoiser_inputs = {conditioning.argument: labels.to(self.device)}
            return guided_trajectories(denoiser, self.solver, self.num_steps, space, scales, self.sampling_seed) | {
                "condition": labels,
                "scale": scales,
            }

        title = f"drawing {self.num_trajectories} trajectories"
        return drawn_chunks(folder, self.num_trajectories, self.chunk_size, draw, title)


def guided_trajectories(
    denoiser: Denoiser, solver: DDIM, num_steps: int, space: ImageSpace, scales: Tensor, seed: int
) -> dict[str, Tensor]:
    """Trajectories of classifier-free guidance at ``scales [N]``, one each.

    Returns:
        The states ``x [N, S, C, H, W]`` in half precision, the guided noise ``epsilon`` about them likewise, and their
        ``timesteps [N, S]``.
    """
    recorder = _Recorder(scales.to(space.device))
    sampler = Sampler(denoiser, solver, num_steps, [recorder])
    sampler.sample(space, seed)
    states = {name: torch.stack(values, 1).cpu() for name, values in recorder.seen.items()}
    return states | {"timesteps": torch.tensor(sampler.timesteps).repeat(len(scales), 1)}


class _Recorder(Guidance):
    """Classifier-free guidance with a scale per sample, which keeps what it sees and answers."""

    needs_null_condition = True

    def __init__(self, scales: Tensor) -> None:
        super().__init__()
        self.scales = scales
        self.seen: dict[str, list[Tensor]] = {"x": [], "epsilon": []}

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        conditional, unconditional = predict(x, step.timestep), predict(x, step.timestep, null_condition=True)
        guided = extrapolated(conditional, unconditional, self.scales, step)
        self.seen["x"].append(x.detach().half())
        self.seen["epsilon"].append(guided.epsilon.half())
        return guided


class _StateTable(Dataset):
    """The states of trajectories in their order."""

    def __init__(self, drawn: dict[str, Tensor], attribute: str) -> None:
        self.drawn, self.attribute = drawn, attribute
        self.num_steps = drawn["timesteps"].shape[1]

    def __len__(self) -> int:
        return self.drawn["timesteps"].numel()

    def __getitem__(self, indices: list[int]) -> GuidedStates:
        place = torch.tensor(indices, dtype=torch.long)
        one, step = place // self.num_steps, place % self.num_steps
        return GuidedStates(
            self.drawn["x"][one, step].float(),
            {self.attribute: self.drawn["condition"][one]},
            {"guidance_scale": self.drawn["scale"][one].float()},
            self.drawn["timesteps"][one, step],
            self.drawn["epsilon"][one, step].float(),
        )
