"""GuidedTrajectoriesDataModule: the states that classifier-free guidance visits, with its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from perfect_adapters import ALL, CLASSES, SCHEDULE, PerfectAdapters, space
from tiny_runs import TinyNetworks
from tiny_trajectories import data, write_base

from tag_lightning.datamodules.guided_trajectories import guided_trajectories
from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, Sampler
from tag_lightning.guidance import CFG
from tag_lightning.pretrained import load_pretrained


def test_the_answers_are_the_extrapolated_scores_of_gaussians() -> None:
    """Those of a mixture of two classes, in closed form, at a scale of its own for each trajectory."""
    scales = torch.linspace(1, 6, 6, dtype=torch.float64)
    drawn = guided_trajectories(Denoiser(PerfectAdapters(), SCHEDULE, "epsilon"), DDIM(), 8, space(), scales, 0)
    labels = space().denoiser_inputs["class_labels"]
    assert drawn["x"].shape == drawn["epsilon"].shape == (6, 8, 2)
    for step in range(8):
        x, timestep = drawn["x"][:, step].double(), int(drawn["timesteps"][0, step])
        a = float(SCHEDULE.alphas_cumprod[timestep])
        told = torch.stack([mixture.score(x, a) for mixture in CLASSES])[labels, torch.arange(6)]
        score = (1 - scales[:, None]) * ALL.score(x, a) + scales[:, None] * told
        expected = -((1 - a) ** 0.5) * score
        # The states are rounded to half precision, by 2^-11 of their size, and the score is as steep as 1 / 0.3.
        torch.testing.assert_close(drawn["epsilon"][:, step].double(), expected, rtol=0.02, atol=0.05)


def test_the_states_are_those_that_guidance_at_one_scale_visits(tmp_path: Path) -> None:
    denoiser = Denoiser(*load_pretrained(write_base(tmp_path / "base")))
    visited: list[torch.Tensor] = []
    images = ImageSpace((1, 8, 8), range(4))
    images.denoiser_inputs = {"class_labels": torch.tensor([0, 1, 2, 0])}
    sampler = Sampler(denoiser, DDIM(), 3, [CFG(2.5)])
    sampler.sample(images, 7, [lambda x, step: visited.append(x.clone())])
    drawn = guided_trajectories(denoiser, DDIM(), 3, images, torch.full((4,), 2.5), 7)
    torch.testing.assert_close(drawn["x"].float(), torch.stack(visited, 1), rtol=2e-3, atol=2e-3)


def test_batches_hold_states_with_their_scale_class_and_timestep(tmp_path: Path) -> None:
    module = data(write_base(tmp_path / "base"), tmp_path, min_scale=1.5, max_scale=4.0)
    assert [len(module.table(split)) for split in ("train", "val", "test")] == [48, 6, 6]  # type: ignore[arg-type]
    batch: Any = module.table("train")[list(range(48))]
    assert batch.x.shape == batch.epsilon.shape == (48, 1, 8, 8)
    assert batch.timesteps.tolist() == [19, 12, 6] * 16
    assert batch.attributes["label"].tolist() == [i % 3 for i in range(16) for _ in range(3)]
    scales = batch.inputs["guidance_scale"].reshape(16, 3)
    assert torch.equal(scales, scales[:, :1].expand(16, 3))
    assert scales.min() >= 1.5
    assert scales.max() <= 4.0
    assert scales[:, 0].sort().values.diff().max() < 2.5 / 16 * 2.7  # spread over the range
    assert module.num_classes == {"label": 3}
    assert module.sample_shape == (1, 8, 8)


def test_the_chunks_of_a_cache_are_taken_up_and_others_drawn(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    first = data(base, tmp_path / "cache").table("train")[[5]]  # type: ignore[index]
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 3
    files[0].unlink()
    again = data(base, tmp_path / "cache").table("train")[[5]]  # type: ignore[index]
    assert torch.equal(first.epsilon, again.epsilon)
    for change in ({"max_scale": 3.0}, {"num_steps": 4}, {"sampling_seed": 1}, {"eta": 1.0}):
        other = data(base, tmp_path / "cache", **change).table("train")[[5]]  # type: ignore[index]
        assert not torch.equal(first.epsilon, other.epsilon)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_trajectories": 3}, "num_trajectories must be at least 20, got 3"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"min_scale": 3.0, "max_scale": 2.0}, "min_scale and max_scale must satisfy"),
        ({"min_scale": -1.0}, "min_scale and max_scale must satisfy"),
        ({"max_scale": float("inf")}, "min_scale and max_scale must satisfy"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        data("digits/conditional_denoiser", tmp_path, **changes)


def test_a_denoiser_without_guidance_to_imitate_is_refused(tiny: TinyNetworks, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no classifier-free guidance to imitate; give a conditional one"):
        data(str(tiny.root / "denoiser"), tmp_path).prepare_data()
