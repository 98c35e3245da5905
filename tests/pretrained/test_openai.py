"""UNets of OpenAI's repositories give the outputs that their own architecture gives."""

from __future__ import annotations

import json
import re
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


@pytest.mark.parametrize("case", [*CASES, "classes"])
def test_every_tensor_is_used_once(case: str, tmp_path: Path) -> None:
    """The network holds every number of the file exactly once, but for those of the learned variance."""
    built, flags = CASES.get(case, ({"num_classes": 5}, GUIDED))
    reference = OpenAIUNetReference(**built)
    begin = 1
    for name, value in reference.weights.items():
        reference.weights[name] = torch.arange(begin, begin + value.numel()).view(value.shape)
        begin += value.numel()
    assert begin < 2**24, "every number must have a float32 of its own"
    network = load_pretrained(_saved(tmp_path, reference, **flags)).network
    used = torch.cat([value.flatten() for value in network.state_dict().values()]).long()
    head = {name: reference.weights.pop(name)[:3] for name in ("out.2.weight", "out.2.bias")}
    expected = torch.cat([value.flatten() for value in (reference.weights | head).values()])
    assert torch.equal(used.sort().values, expected.sort().values)


@pytest.mark.parametrize(
    "lost",
    [
        *("time_embed.0.weight", "input_blocks.0.0.bias", "input_blocks.1.0.in_layers.2.weight"),
        *("input_blocks.3.0.skip_connection.bias", "input_blocks.3.1.norm.weight", "input_blocks.3.1.qkv.weight"),
        *("middle_block.1.proj_out.bias", "output_blocks.1.0.emb_layers.1.weight", "out.0.bias"),
    ],
)
def test_a_missing_tensor_is_named(lost: str, tmp_path: Path) -> None:
    reference = OpenAIUNetReference(multipliers=(1, 2), attention=(2,), residual_resampling=False)
    del reference.weights[lost]
    # Attention without its queries shows by what is left of it.
    named = "nothing corresponds to its input_blocks.3.1" if "qkv" in lost else f"it lacks {lost}"
    with pytest.raises(ValueError, match=re.escape(named)) as caught:
        load_pretrained(_saved(tmp_path, reference, **GUIDED))
    assert "\n" not in str(caught.value)


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
    torch.save(whole | {"out.0.bias": torch.full((32,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"NaN or infinity in out\.0\.bias"):
        load_pretrained(path)
    torch.save({"model": whole}, path)
    with pytest.raises(ValueError, match="its entry 'model' must be a tensor"):
        load_pretrained(path)
