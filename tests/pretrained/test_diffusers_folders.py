"""Folders that diffusers wrote: the scheduler tells the noise schedule and the prediction type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from tiny_runs import SIZE, UNET, TinyNetworks, predictor_arguments, seeded

from tag_lightning.cli import main
from tag_lightning.diffusion import Denoiser
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
