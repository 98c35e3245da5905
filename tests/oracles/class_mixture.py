"""Gaussian classes: the exact denoiser of each class and of all together, and the exact classifier of clean samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from gaussian_mixture import ExactDenoiser, GaussianMixture
from problems import vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import CONDITION_KEY, Conditioning, Denoiser, ImageSpace, NoiseSchedule


class ClassMixture:
    """Classes ``N(means[k], variance I)`` of equal weight, with the exact answers about them."""

    def __init__(self, means: Sequence[Sequence[float]], variance: float, schedule: NoiseSchedule) -> None:
        self.means, self.variance, self.schedule = torch.tensor(means, dtype=torch.float64), variance, schedule
        self.classes = [GaussianMixture([1], [mean], [variance]) for mean in means]
        self.all = GaussianMixture([1] * len(means), means, [variance] * len(means))
        self.conditioning = Conditioning("label", "class_labels", num_classes=len(means), has_null=True)

    def denoiser(self, has_null: bool = True) -> Denoiser:
        """A new exact denoiser, whose network notes in ``heard`` what it is told."""
        return Denoiser(ClassDenoiser(self, has_null), self.schedule, "epsilon")

    def space(self, labels: Tensor) -> ImageSpace:
        """Vectors of these classes."""
        made = vector_space(range(len(labels)), self.means.shape[1])
        made.denoiser_inputs = self.conditioning.inputs({"label": labels})
        return made

    def log_posterior(self, x0: Tensor) -> Tensor:
        """``log p(k | x0)``, ``[B, K]``, of clean samples."""
        return (-(x0[:, None] - self.means).square().sum(2) / (2 * self.variance)).log_softmax(1)

    def scores(self, x: Tensor, labels: Tensor, power: float) -> Tensor:
        """``grad log p(x | k)`` of noisy samples for the class of each."""
        every = torch.stack([mixture.score(x, power) for mixture in self.classes])
        return every[labels, torch.arange(len(x))]

    def clean(self, x: Tensor, labels: Tensor, power: float) -> Tensor:
        """``E[x0 | x, k]`` for the class of each."""
        means = self.means[labels]
        gain = power**0.5 * self.variance / (power * self.variance + 1 - power)
        return means + gain * (x - power**0.5 * means)


class ClassDenoiser(nn.Module):
    """The exact denoiser of each class, and of the mixture for the null class."""

    def __init__(self, mixture: ClassMixture, has_null: bool) -> None:
        super().__init__()
        told = asdict(mixture.conditioning) | {"has_null": has_null}
        self.config = {CONDITION_KEY: told}
        self.exact = nn.ModuleList(ExactDenoiser(one, mixture.schedule) for one in (*mixture.classes, mixture.all))
        self.heard: list[list[int]] = []

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        self.heard.append(class_labels.tolist())
        answers = torch.stack([exact(x, timesteps) for exact in self.exact], 1)
        return answers[torch.arange(len(x)), class_labels]


class ExactClassifier(nn.Module):
    """``log p(k | x0)`` of clean samples, with a weight of 1 that would record a graph; counts its calls.

    Args:
        mixture: The classes.
        sharpness: Factor of the logits; large ones are certain of the nearest class.
    """

    def __init__(self, mixture: ClassMixture, sharpness: float = 1.0) -> None:
        super().__init__()
        self.mixture, self.num_classes = mixture, len(mixture.means)
        self.factor = nn.Parameter(torch.tensor(sharpness, dtype=torch.float64))
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.outputs.append(self.factor * self.mixture.log_posterior(x))
        return self.outputs[-1]
