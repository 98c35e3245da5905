"""Guidance in diffusers' own loops: the same samples as ours where the loops agree, and Stable Diffusion's pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from gaussian_mixture import ExactDenoiser, ExactTimePosterior
from problems import UNEVEN, vector_space
from torch import Tensor

from tag_lightning.diffusers_callback import StepEndGuidance
from tag_lightning.diffusion import DDIM, Denoiser, Guidance, LinearSchedule, Run, SampleNoise, Sampler
from tag_lightning.guidance import (
    CFG,
    DPS,
    Corruption,
    LangevinCorrector,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
)
from tag_lightning.networks import SimpleCNN

TOTAL, STEPS, COUNT = 100, 10, 5
SCHEDULE = LinearSchedule(TOTAL, 1e-4, 0.1)
BETAS = {"num_train_timesteps": TOTAL, "beta_start": 1e-4, "beta_end": 0.1, "timestep_spacing": "trailing"}
POSTERIOR = ExactTimePosterior(UNEVEN, SCHEDULE)
NETWORK = ExactDenoiser(UNEVEN, SCHEDULE)


def looped(scheduler: Any, callback: StepEndGuidance | None, x: Tensor) -> Tensor:
    """The loop of ``DDIMPipeline``, which has no callback."""
    scheduler.set_timesteps(STEPS)
    for i, t in enumerate(scheduler.timesteps):
        inputs = scheduler.scale_model_input(x, t)
        timestep = torch.full((len(x),), round(float(t)))
        x = scheduler.step(NETWORK(inputs, timestep), t, x).prev_sample
        if callback is not None:
            x = callback.moved(scheduler, i, x)
    return x


def start() -> Tensor:
    return vector_space(range(COUNT)).noise(SampleNoise(0, range(COUNT)))


def ddim() -> DDIMScheduler:
    return DDIMScheduler(**BETAS, clip_sample=False)


def test_the_loop_of_diffusers_with_tag_is_ours() -> None:
    """But for the first step, whose samples come from no step before."""
    tag = TemporalAlignment(POSTERIOR, 0.05, start=89)
    ours = Sampler(Denoiser(NETWORK, SCHEDULE, "epsilon"), DDIM(0.0), STEPS, [tag]).sample(
        vector_space(range(COUNT)), 0
    )
    callback = StepEndGuidance(TemporalAlignment(POSTERIOR, 0.05))
    for _ in range(2):  # a second run begins anew
        theirs = looped(ddim(), callback, start())
        torch.testing.assert_close(theirs, ours, atol=2e-4, rtol=2e-4)  # alphas_cumprod and the moves are float32 there
    assert not torch.allclose(looped(ddim(), None, start()), ours, atol=1e-2)


def test_samples_of_another_scale_are_moved_in_that_of_the_network() -> None:
    """Euler's steps without noise are those of DDIM on samples divided by the signal."""
    tag = TemporalAlignment(POSTERIOR, 0.05)
    euler = EulerDiscreteScheduler(**BETAS)
    euler.set_timesteps(STEPS)
    first = float(euler.init_noise_sigma)
    moved = looped(euler, StepEndGuidance(tag), first * start())
    plain = looped(EulerDiscreteScheduler(**BETAS), None, first * start())
    same = looped(ddim(), StepEndGuidance(tag), start())
    torch.testing.assert_close(moved, same, atol=0.02, rtol=0.02)
    assert not torch.allclose(moved, plain, atol=0.02, rtol=0.02)


def test_noise_is_that_of_the_seed_in_every_run() -> None:
    runs = [looped(ddim(), StepEndGuidance(Corruption(0.2), seed=seed), start()) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    again = StepEndGuidance(Corruption(0.2))
    assert torch.equal(looped(ddim(), again, start()), looped(ddim(), again, start()))


def test_half_precision_stays_half_and_the_end_stays_the_end() -> None:
    scheduler, callback = ddim(), StepEndGuidance(TemporalAlignment(POSTERIOR, 0.05))
    scheduler.set_timesteps(STEPS)
    x = start().half()
    with torch.inference_mode():
        out = callback(SimpleNamespace(scheduler=scheduler), 0, 99, {"latents": x, "prompt_embeds": None})
    assert out["latents"].dtype == torch.float16
    assert not torch.equal(out["latents"], x)
    assert out.keys() == {"latents", "prompt_embeds"}
    assert callback.moved(scheduler, STEPS - 1, x) is x


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        (DPS(), "DPS does not move noisy samples alone"),
        (CFG(), "CFG does not move noisy samples alone"),
        (TemporalAlignmentAfterStep(POSTERIOR), "TemporalAlignmentAfterStep does not move noisy samples alone"),
        (TemporalAlignment(POSTERIOR, conditions=[DPS()]), "TemporalAlignment with conditions asks for the denoiser"),
        (TemporalAlignment(), "TemporalAlignment has no predictor"),
    ],
)
def test_what_a_callback_cannot_do_is_refused_when_it_is_made(guidance: Guidance, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepEndGuidance(guidance)


def test_what_shows_in_a_run_is_refused_in_its_first_step() -> None:
    with pytest.raises(ValueError, match="LangevinCorrector asks for the denoiser, which the callback"):
        looped(ddim(), StepEndGuidance(LangevinCorrector()), start())
    flow = FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(STEPS)
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod: guidance needs"):
        StepEndGuidance(Corruption(0.2)).moved(flow, 0, start())
    few = StepEndGuidance(TemporalAlignment(), run=Run(ExactTimePosterior(UNEVEN, LinearSchedule(50))))
    with pytest.raises(ValueError, match="the time predictor knows 50 timesteps but the denoiser has 100"):
        looped(ddim(), few, start())
    with pytest.raises(ValueError, match="StepEndGuidance has no guidance"):
        StepEndGuidance()


def stable_diffusion() -> Any:
    """Stable Diffusion's pipeline with a small random UNet and decoder; prompts are given as embeddings."""
    pytest.importorskip("transformers", reason="diffusers' Stable Diffusion needs it")
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            8, down_block_types=down, up_block_types=up, cross_attention_dim=12, attention_head_dim=4, **blocks
        )
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        vae = AutoencoderKL(latent_channels=4, **kinds, **blocks)
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        scheduler=DDIMScheduler(**BETAS, clip_sample=False),
        **nothing,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_stable_diffusion_is_moved_between_its_steps() -> None:
    """The images of its pipeline with the callback are those of the same pipeline moved by hand."""
    pipeline, seen = stable_diffusion(), list[int]()
    predictor = SimpleCNN(8, 4, TOTAL, widths=(8,)).requires_grad_(False)
    tag = StepEndGuidance(TemporalAlignment(predictor, 0.05))
    embeddings = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    inputs = {"prompt_embeds": embeddings, "negative_prompt_embeds": 0 * embeddings, "num_inference_steps": 3}
    inputs |= {"output_type": "latent", "latents": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))}

    def by_hand(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(int(timestep))
        x = tensors["latents"]
        if index < 2:
            reached = int(pipe.scheduler.timesteps[index + 1])
            x = x + 0.05 * TemporalAlignment(predictor).time_linked_score(x, reached)
        return {"latents": x}

    moved, expected, plain = (
        pipeline(**inputs, callback_on_step_end=callback).images for callback in (tag, by_hand, None)
    )
    assert seen == [99, 66, 32]
    torch.testing.assert_close(moved, expected)
    assert not torch.allclose(moved, plain)
