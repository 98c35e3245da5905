"""Folders that diffusers wrote: the scheduler tells the noise schedule and the prediction type."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from tiny_runs import SIZE, UNET, TinyNetworks, predictor_arguments, seeded

from tag_lightning.cli import main
from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, Sampler
from tag_lightning.diffusion.spaces import SampleNoise
from tag_lightning.pretrained import load_pretrained


@pytest.fixture
def pipeline(tmp_path: Path) -> DDPMPipeline:
    scheduler = DDPMScheduler(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    made = DDPMPipeline(seeded(lambda: UNet2DModel(**UNET), 0), scheduler)
    made.save_pretrained(tmp_path / "pipeline")
    return made


@pytest.mark.parametrize("folder", ["pipeline", "pipeline/unet"])
def test_a_pipeline_is_a_denoiser_with_its_schedule_and_prediction_type(
    folder: str, pipeline: DDPMPipeline, tmp_path: Path
) -> None:
    loaded = load_pretrained(tmp_path / folder)
    assert loaded.prediction_type == "v_prediction"
    assert loaded.schedule is not None
    torch.testing.assert_close(loaded.schedule.alphas_cumprod.float(), pipeline.scheduler.alphas_cumprod)
    x, timestep = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), 7
    prediction = Denoiser(*loaded)(x, timestep)
    ddim = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    ddim.set_timesteps(20)
    with torch.no_grad():
        output = pipeline.unet(x, timestep).sample
    torch.testing.assert_close(prediction.x0, ddim.step(output, timestep, x).pred_original_sample, rtol=1e-4, atol=1e-4)


def test_a_model_beside_its_scheduler_is_a_denoiser(pipeline: DDPMPipeline, tmp_path: Path) -> None:
    """The layout of the published DDPM models."""
    pipeline.unet.save_pretrained(tmp_path / "flat")
    DDPMScheduler(num_train_timesteps=20).save_pretrained(tmp_path / "flat")
    loaded = load_pretrained(tmp_path / "flat")
    assert loaded.prediction_type == "epsilon"
    assert loaded.schedule is not None
    assert loaded.schedule.num_timesteps == 20


def test_a_pipeline_samples_from_the_command_line(pipeline: DDPMPipeline, tiny: TinyNetworks, tmp_path: Path) -> None:
    DDPMScheduler(num_train_timesteps=20, beta_schedule="linear", prediction_type="sample").save_pretrained(
        tmp_path / "pipeline/scheduler"
    )
    run = tmp_path / "run"
    main(predictor_arguments("validate", run, tiny, f"--sampling.denoiser={tmp_path / 'pipeline'}"))
    assert "unguided" in json.loads((run / "results.json").read_text())["arms"]


def test_schedulers_without_discrete_noise_levels_are_refused(pipeline: DDPMPipeline, tmp_path: Path) -> None:
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=20).save_pretrained(tmp_path / "pipeline/scheduler")
    with pytest.raises(ValueError, match="has no noise schedule of discrete timesteps"):
        load_pretrained(tmp_path / "pipeline")
    config = tmp_path / "pipeline/scheduler/scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    with pytest.raises(ValueError, match="DDPMPipeline is not a scheduler of diffusers"):
        load_pretrained(tmp_path / "pipeline")


@pytest.mark.parametrize(
    ("settings", "clip_range"),
    [({"clip_sample": False}, math.inf), ({"clip_sample_range": 0.5}, 0.5), ({}, 1.0)],
)
def test_sampling_clips_as_the_scheduler_does(
    settings: dict[str, Any], clip_range: float, pipeline: DDPMPipeline, tmp_path: Path
) -> None:
    """Held to diffusers' own DDIM loop."""
    scheduler = DDIMScheduler(20, beta_schedule="squaredcos_cap_v2", set_alpha_to_one=True, **settings)
    scheduler.save_pretrained(tmp_path / "pipeline/scheduler")
    loaded = load_pretrained(tmp_path / "pipeline")
    assert loaded.clip_range == clip_range
    space = ImageSpace((3, SIZE, SIZE), range(2))
    sampler = Sampler(Denoiser(*loaded), DDIM(eta=0.0), 20)
    x = space.noise(SampleNoise(3, range(2), 0))
    scheduler.set_timesteps(20)
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            output = pipeline.unet(x, timestep).sample
        x = scheduler.step(output, timestep, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(sampler.sample(space, 3), x.clamp(-1, 1), rtol=1e-3, atol=1e-3)


def test_a_learned_variance_is_dropped(pipeline: DDPMPipeline, tmp_path: Path) -> None:
    both = seeded(lambda: UNet2DModel(**UNET | {"out_channels": 6}), 0)
    both.save_pretrained(tmp_path / "pipeline/unet")
    DDPMScheduler(20, variance_type="learned_range").save_pretrained(tmp_path / "pipeline/scheduler")
    loaded = load_pretrained(tmp_path / "pipeline")
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(Denoiser(*loaded)(x, 3).epsilon, both.eval()(x, 3).sample[:, :3])


def test_dynamic_thresholds_are_refused(pipeline: DDPMPipeline, tmp_path: Path) -> None:
    DDPMScheduler(20, thresholding=True).save_pretrained(tmp_path / "pipeline/scheduler")
    with pytest.raises(ValueError, match="thresholds clean samples dynamically"):
        load_pretrained(tmp_path / "pipeline")


@pytest.mark.parametrize("content", ["", "[1]", '"text"'])
def test_an_unreadable_scheduler_is_named(content: str, pipeline: DDPMPipeline, tmp_path: Path) -> None:
    (tmp_path / "pipeline/scheduler/scheduler_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"scheduler_config\.json .*copy it again"):
        load_pretrained(tmp_path / "pipeline")
