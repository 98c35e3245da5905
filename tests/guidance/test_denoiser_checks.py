"""Denoisers that a guidance cannot run with are refused when a sampler is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    BoxSpace,
    CosineSchedule,
    Denoiser,
    LinearSchedule,
    NoiseSchedule,
    Sampler,
)
from tag_lightning.guidance import DPS, AutoGuidance, ClassifierGuidance, Condition, RLGuidance, TemporalAlignment


class Zero(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(x)


class NoisyClassifier(nn.Module):
    num_timesteps = 7

    def forward(self, x: Tensor, timesteps: Tensor | None = None) -> Tensor:
        return x


def denoiser(schedule: NoiseSchedule) -> Denoiser:
    return Denoiser(Zero(), schedule, "epsilon")


@pytest.mark.parametrize(("kind", "role"), [(AutoGuidance, "worse"), (RLGuidance, "tuned")])
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (CosineSchedule(100), "follow different noise schedules"),
        (LinearSchedule(1000), "has T = 1000 timesteps but the denoiser of the run .Zero. has 100"),
    ],
)
def test_a_second_denoiser_of_another_schedule_is_refused(
    schedule: NoiseSchedule, message: str, kind: Any, role: str
) -> None:
    with pytest.raises(ValueError, match=rf"^the {role} denoiser of {kind.__name__} \(Zero\) .*{message}"):
        Sampler(denoiser(LinearSchedule(100)), DDIM(), 4, [kind(denoiser(schedule))])
    Sampler(denoiser(LinearSchedule(100)), DDIM(), 4, [kind(denoiser(LinearSchedule(100)))])


def test_a_second_denoiser_is_moved_to_the_samples_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    worse, moved = denoiser(LinearSchedule(100)), []
    to = Denoiser.to
    monkeypatch.setattr(Denoiser, "to", lambda self, device: moved.append((self, device)) or to(self, device))
    sampler = Sampler(denoiser(LinearSchedule(100)), DDIM(), 4, [AutoGuidance(worse)])
    sampler.sample(BoxSpace((2,), range(3)), 0)
    assert moved == [(worse, torch.device("cpu"))]


def test_a_condition_of_tag_is_asked_about_the_denoiser() -> None:
    guided = ClassifierGuidance(Condition(NoisyClassifier(), torch.tensor([0, 1])))
    posterior = nn.Linear(2, 100)
    for guidance in (
        guided,
        TemporalAlignment(posterior, 0.1, [guided]),
        TemporalAlignment(posterior, 0.1, [DPS(), guided]),
    ):
        with pytest.raises(ValueError, match="ClassifierGuidance has a classifier of 7 timesteps, but"):
            Sampler(denoiser(LinearSchedule(100)), DDIM(), 4, [guidance])
