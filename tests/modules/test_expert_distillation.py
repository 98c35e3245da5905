"""Distillation into experts: the divergence in closed form, no real data, agreement per range of noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets
import torch
from lightning import Trainer
from problems import step_at, vector_space
from tiny_runs import TIMESTEPS, TinyNetworks
from torch import Tensor

from tag_lightning.datamodules import GeneratedDataModule
from tag_lightning.diffusion import Denoiser, LinearSchedule, Run
from tag_lightning.guidance import ClassifierGuidance, Condition
from tag_lightning.modules import ExpertDistillationModule
from tag_lightning.pretrained import load_pretrained

# Modules called by hand have nowhere to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

SCHEDULE = LinearSchedule(TIMESTEPS)


def module(tiny: TinyNetworks, **settings: Any) -> ExpertDistillationModule:
    settings = {"num_experts": 4, "rank": 2, "optimizer": lambda p: torch.optim.Adam(p, lr=1e-2)} | settings
    return ExpertDistillationModule(str(tiny.root / "guide"), SCHEDULE, **settings)


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_loss_is_the_divergence_of_the_sharpened_classifier_from_the_expert(tiny: TinyNetworks) -> None:
    """``sum_k p_k (log p_k - log q_k)`` in float64, of new experts, which are the classifier on the noisy image."""
    made, x0 = module(tiny, temperature=0.5), images(16)
    loss, agrees, timesteps = made._compared(x0, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(TIMESTEPS, (16,), generator=generator)
    x_t = SCHEDULE.add_noise(x0, torch.randn(x0.shape, generator=generator), drawn)
    assert torch.equal(timesteps, drawn)
    guide = load_pretrained(tiny.root / "guide").network
    with torch.no_grad():
        clean, noisy = guide(x0).double(), guide(x_t).double()
    p, q = (2 * clean).softmax(1), noisy.softmax(1)
    expected = (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(agrees, clean.argmax(1) == noisy.argmax(1))


def test_of_images_without_noise_nothing_is_to_be_learnt(tiny: TinyNetworks) -> None:
    still = ExpertDistillationModule(
        str(tiny.root / "guide"), LinearSchedule(TIMESTEPS, 1e-12, 1e-12), 4, rank=2, temperature=1.0
    )
    loss, agrees, _ = still._compared(images(8), torch.Generator().manual_seed(0))
    assert float(loss.detach().abs().max()) < 1e-6
    assert bool(agrees.all())


def test_training_lowers_the_loss_and_leaves_the_classifier(tiny: TinyNetworks) -> None:
    made, x0 = module(tiny), images(32)
    before = [value.clone() for value in made.network.frozen.state_dict().values()]
    optimizer, losses = made.configure_optimizers(), []
    for _ in range(30):
        loss = made._compared(x0, torch.Generator().manual_seed(0))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(map(torch.equal, before, made.network.frozen.state_dict().values()))


def test_a_fit_needs_no_real_data(tiny: TinyNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untouched(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the real digits were read")

    monkeypatch.setattr(sklearn.datasets, "load_digits", untouched)
    data = GeneratedDataModule(
        str(tiny.root / "denoiser"), num_images=60, num_steps=2, cache=str(tmp_path), batch_size=16
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, **quiet)
    trainer.fit(module(tiny, noise_draws=20), datamodule=data)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert figures.keys() >= {"val/loss", *(f"val/agreement_{n}" for n in range(4))}
    assert all(0 <= figures[f"val/agreement_{n}"] <= 1 for n in range(4))


def test_experts_guide_by_the_gradient_of_the_one_of_the_timestep(tiny: TinyNetworks) -> None:
    made, x = module(tiny), images(3)
    for layer in made.network.tuned:
        for change in layer.changes:
            for parameter in change.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
    condition = Condition(made.network, torch.tensor([0, 1, 2]))
    guidance = ClassifierGuidance(scale=2.0).for_run(Run(conditions={"label": condition}))
    denoiser = Denoiser(load_pretrained(tiny.root / "denoiser").network, SCHEDULE, "epsilon")
    step = step_at(SCHEDULE, vector_space(range(3)), 12, 8)
    with torch.no_grad():
        plain = denoiser(x, 12)
        guided = guidance.denoise(x, step, lambda x, t, **inputs: denoiser(x, t))
    leaf = x.clone().requires_grad_(True)
    expert = int(made.network.expert_of(torch.tensor(12)))
    logits = made.network._asked(expert, leaf).log_softmax(1)
    (gradient,) = torch.autograd.grad(logits[torch.arange(3), torch.arange(3)].sum(), leaf)
    noise = math.sqrt(1 - float(SCHEDULE.alphas_cumprod[12]))
    torch.testing.assert_close(guided.epsilon, plain.epsilon - 2 * noise * gradient)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0"),
        ({"temperature": math.inf}, "temperature must be a finite number above 0, got inf"),
        ({"noise_draws": 0}, "noise_draws must be at least 1, got 0"),
        ({"num_experts": TIMESTEPS + 1}, f"num_experts must lie in 1 .. {TIMESTEPS}"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], named: str, tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match=named):
        module(tiny, **settings)


def test_a_base_of_another_kind_is_refused(tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match="denoiser is a UNet2DModel; experts are made on an ImageClassifier"):
        ExpertDistillationModule(str(tiny.root / "denoiser"), SCHEDULE)
