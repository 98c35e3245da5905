"""Two classes of Gaussians whose scores are known, and adapters on their denoiser that make no error."""

from __future__ import annotations

from dataclasses import asdict

import torch
from gaussian_mixture import ExactDenoiser, GaussianMixture
from problems import vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import CONDITION_KEY, Conditioning, ImageSpace, LinearSchedule

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
CLASSES = [GaussianMixture([1], [mean], [0.3]) for mean in ([2.0, 0.5], [-1.0, 1.5])]
ALL = GaussianMixture([1, 1], [[2.0, 0.5], [-1.0, 1.5]], [0.3, 0.3])
LABEL = Conditioning("label", "class_labels", num_classes=2, has_null=True)


class PerfectAdapters(nn.Module):
    """The exact denoiser of each class, with adapters that make no error; counts its passes."""

    scale_range = (1.0, 6.0)

    def __init__(self) -> None:
        super().__init__()
        self.config = {CONDITION_KEY: asdict(LABEL)}
        self.exact = nn.ModuleList(ExactDenoiser(mixture, SCHEDULE) for mixture in (*CLASSES, ALL))
        self.passes = 0

    def forward(
        self, x: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: Tensor | None = None
    ) -> Tensor:
        self.passes += 1
        answers = torch.stack([exact(x, timesteps) for exact in self.exact], 1)
        conditional = answers[torch.arange(len(x)), class_labels]
        if guidance_scale is None:
            return conditional
        return answers[:, 2] + guidance_scale[:, None] * (conditional - answers[:, 2])


def space(conditional: bool = True) -> ImageSpace:
    """Six samples, asked to be of one of the classes if ``conditional``."""
    made = vector_space(range(6))
    made.denoiser_inputs = {"class_labels": torch.tensor([0, 1, 0, 1, 1, 0])} if conditional else {}
    assert isinstance(made, ImageSpace)
    return made
