"""UNets of OpenAI's repositories give the outputs that their own architecture gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from openai_unet import OpenAIUNetReference
from torch import Tensor

from tag_lightning.diffusion import Denoiser
from tag_lightning.networks import OpenAIUNet
from tag_lightning.pretrained import load_pretrained, save_pretrained


def _saved(folder: Path, reference: OpenAIUNetReference, **flags: Any) -> Path:
    path = folder / "model.pt"
    torch.save({name: value.float() for name, value in reference.weights.items()}, path)
    (folder / "model.json").write_text(json.dumps({"image_size": 16} | flags))
    return path


def _inputs() -> tuple[Tensor, Tensor]:
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.tensor([0, 499, 999])


GUIDED = {"num_head_channels": 16}
CASES = {
    "guided-diffusion": ({}, GUIDED),
    "new attention order": ({"heads_first": False}, GUIDED | {"use_new_attention_order": True}),
    "resampled by convolutions": ({"residual_resampling": False}, GUIDED),
    "time added": ({"scale_shift": False}, GUIDED),
    "two blocks a level": ({"layers": 2, "multipliers": (1, 2)}, GUIDED),
    "one level": ({"multipliers": (1,), "attention": (1,)}, GUIDED),
    "no variance": ({"out_channels": 3}, GUIDED),
    "same heads, same width": ({"head_channels": None}, {"num_heads": 4}),
    "same heads, two widths": ({"head_channels": None, "multipliers": (1, 2, 3)}, {"num_heads": 4}),
    "narrow first level": ({"base": 64, "multipliers": (0.5, 1)}, GUIDED),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_published_architecture(case: str, tmp_path: Path) -> None:
    built, flags = CASES[case]
    reference = OpenAIUNetReference(**built)
    network = load_pretrained(_saved(tmp_path, reference, **flags)).network.double()
    x, timesteps = _inputs()
    expected = reference(x, timesteps)[:, :3]  # the rest is the learned variance
    # diffusers embeds timesteps in float32
    torch.testing.assert_close(network(x, timesteps).sample, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1
    own = isinstance(network, OpenAIUNet)
    assert own == (case in ("same heads, two widths", "narrow first level")), "plain UNet2DModel where it is exact"
    assert isinstance(network, UNet2DModel)


def test_the_learned_variance_is_dropped(tmp_path: Path) -> None:
    loaded = load_pretrained(_saved(tmp_path, OpenAIUNetReference(), **GUIDED))
    x = _inputs()[0].float()
    assert Denoiser(*loaded)(x, 10).epsilon.shape == x.shape
    assert loaded.network.config["out_channels"] == 3


def test_classes_are_told(tmp_path: Path) -> None:
    reference = OpenAIUNetReference(num_classes=5)
    loaded = load_pretrained(_saved(tmp_path, reference, **GUIDED))
    x, timesteps = _inputs()
    labels = torch.tensor([4, 0, 2])
    output = loaded.network.double()(x, timesteps, class_labels=labels).sample
    torch.testing.assert_close(output, reference(x, timesteps, labels)[:, :3], rtol=1e-5, atol=1e-5)


def test_timesteps_are_rescaled(tmp_path: Path) -> None:
    """As in the models of improved-diffusion with 4000 steps."""
    reference = OpenAIUNetReference()
    flags = GUIDED | {"rescale_timesteps": True, "diffusion_steps": 4000, "noise_schedule": "cosine"}
    loaded = load_pretrained(_saved(tmp_path, reference, **flags))
    x, timesteps = _inputs()
    expected = reference(x, timesteps / 4)[:, :3]
    torch.testing.assert_close(loaded.network.double()(x, timesteps).sample, expected, rtol=1e-5, atol=1e-5)
    save_pretrained(tmp_path / "folder", loaded.network.float(), loaded.schedule)
    again = load_pretrained(tmp_path / "folder")
    torch.testing.assert_close(again.network.double()(x, timesteps).sample, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "steps"), [("linear", 1000), ("linear", 250), ("cosine", 1000), ("cosine", 4000)])
def test_schedules(kind: str, steps: int, tmp_path: Path) -> None:
    path = _saved(tmp_path, OpenAIUNetReference(), **GUIDED, noise_schedule=kind, diffusion_steps=steps)
    schedule = load_pretrained(path).schedule
    assert schedule is not None
    if kind == "cosine":
        bar = [np.cos((i / steps + 0.008) / 1.008 * np.pi / 2) ** 2 for i in range(steps + 1)]
        betas = np.array([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(steps)])
    else:
        betas = np.linspace(1000 / steps * 0.0001, 1000 / steps * 0.02, steps)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-12)


def test_a_published_name_needs_no_flags(tmp_path: Path) -> None:
    path = _saved(tmp_path, OpenAIUNetReference(base=64, multipliers=(1, 1), head_channels=64), **GUIDED)
    published = path.rename(tmp_path / "256x256_diffusion_uncond.pt")
    loaded = load_pretrained(published)
    assert loaded.network.config["sample_size"] == 256
    assert loaded.network.config["attention_head_dim"] == 64
    assert loaded.prediction_type == "epsilon"


def test_a_file_without_flags_says_what_to_write(tmp_path: Path) -> None:
    path = _saved(tmp_path, OpenAIUNetReference())
    (tmp_path / "model.json").unlink()
    with pytest.raises(
        ValueError, match=r'write the flags it was trained with into .*model\.json, for example \{"image'
    ):
        load_pretrained(path)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"num_head_chanels": 16}, "has num_head_chanels, not a flag of OpenAI's"),
        ({"num_heads": "four"}, r'num_heads in .*model\.json must be like 4, got "four"'),
        ({"image_size": None}, "must have image_size"),
        ({"noise_schedule": "sigmoid"}, "must be linear or cosine, got sigmoid"),
        ({"diffusion_steps": 10}, "must be at least 21"),
        ({"num_heads": 3}, "has no 3 heads of equal width"),
        ({"num_heads": 4, "num_heads_upsample": 2}, "num_heads_upsample differs"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        load_pretrained(_saved(tmp_path, OpenAIUNetReference(multipliers=(1, 2), attention=(2,)), **flags))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    reference = OpenAIUNetReference(multipliers=(1, 2), attention=(2,))
    path = _saved(tmp_path, reference, **GUIDED)
    whole = {name: value.float() for name, value in reference.weights.items()}
    torch.save(whole | {"extra.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"nothing corresponds to its extra\.weight"):
        load_pretrained(path)
    torch.save({name: value for name, value in whole.items() if name != "out.0.bias"}, path)
    with pytest.raises(ValueError, match=r"conv_norm_out\.bias"):
        load_pretrained(path)
    torch.save(whole | {"out.0.bias": torch.full((32,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"NaN or infinity in out\.0\.bias"):
        load_pretrained(path)
    torch.save({"model": whole}, path)
    with pytest.raises(ValueError, match="its entry 'model' must be a tensor"):
        load_pretrained(path)
