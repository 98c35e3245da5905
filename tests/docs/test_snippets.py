"""The code and the configurations that README and docs/extend.md show do what the text says."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from problems import UNEVEN, exact_denoiser, toy_schedule, vector_space
from tiny_runs import TinyNetworks, predictor_arguments
from torch import Tensor, nn

from tag_lightning.cli import main
from tag_lightning.diffusion import DDIM, Prediction, Proposal, Sampler, Step
from tag_lightning.guidance import DPS, Condition, Guidance, residual_norm
from tag_lightning.networks import SimpleCNN

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(python|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*match.groups()) for match in _BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of docs/extend.md, named by the first line of each block; the current one."""
    names = []
    for block in blocks("docs/extend.md"):
        names.append(block.text.split("\n", 1)[0].removeprefix("# "))
        (tmp_path / names[-1]).write_text(block.text, encoding="utf-8")
    assert names == ["my_guidance.py", "dsg.yaml", "my_metrics.py", "diversity.yaml", "my_data.py", "npz.yaml"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_guidance", "my_metrics", "my_data"):
        sys.modules.pop(name, None)


class Recorded(Guidance):
    """Keeps what is proposed after the guidance before it."""

    def __init__(self) -> None:
        super().__init__()
        self.proposals: list[Proposal] = []

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        self.proposals.append(proposal)
        return proposal


@pytest.fixture
def dsg(folder: Path) -> ModuleType:
    return importlib.import_module("my_guidance")


def near(point: float) -> Condition:
    """The condition that samples lie at ``(point, point)``."""
    return Condition(nn.Identity(), torch.full((5, 2), point, dtype=torch.float64), residual_norm)


def drawn(*guidance: Guidance) -> tuple[Tensor, list[Proposal]]:
    """Samples of five vectors in twelve steps, and the last proposal of every step."""
    last = Recorded()
    sampler = Sampler(exact_denoiser(UNEVEN, toy_schedule()), DDIM(eta=1), 12, [*guidance, last])
    return sampler.sample(vector_space(range(5)), seed=3), last.proposals


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_samples_of_dsg_lie_on_the_sphere_of_unguided_ones(dsg: ModuleType, rate: float) -> None:
    _, proposals = drawn(dsg.DSG(near(4.0), rate))
    for proposal in proposals[:-1]:
        distance = (proposal.sample - proposal.mean).norm(dim=1)
        torch.testing.assert_close(distance, torch.full((5,), 2**0.5 * proposal.std).double(), rtol=0, atol=1e-5)


def test_dsg_at_full_rate_steps_along_the_gradient(dsg: ModuleType) -> None:
    guidance = dsg.DSG(near(4.0), 1.0)
    seen: list[Tensor] = []
    gradient = guidance.gradient
    guidance.gradient = lambda *inputs: seen.append(gradient(*inputs)) or seen[-1]
    _, proposals = drawn(guidance)
    for ascent, proposal in zip(seen, proposals, strict=False):
        cosine = torch.cosine_similarity(ascent, proposal.sample - proposal.mean)
        torch.testing.assert_close(cosine, torch.ones(5).double())


def test_dsg_brings_samples_nearer_to_the_condition(dsg: ModuleType) -> None:
    target = torch.full((5, 2), 4.0)
    unguided, guided = drawn()[0], drawn(dsg.DSG(near(4.0), 0.5))[0]
    assert (guided - target).norm(dim=1).mean() < (unguided - target).norm(dim=1).mean()


def test_dps_and_dsg_both_act_in_either_order(dsg: ModuleType) -> None:
    dps, spherical = DPS(near(4.0), 0.3), dsg.DSG(near(-4.0), 0.5)
    both, swapped = drawn(dps, spherical)[0], drawn(spherical, dps)[0]
    for alone in (drawn(dps)[0], drawn(spherical)[0]):
        assert (both - alone).abs().max() > 1e-2
    torch.testing.assert_close(both, swapped)  # one moves the mean, the other the noise


def test_dsg_refuses_a_solver_without_noise(dsg: ModuleType) -> None:
    with pytest.raises(ValueError, match="DSG"):
        Sampler(exact_denoiser(UNEVEN, toy_schedule()), DDIM(eta=0), 4, [dsg.DSG(near(4.0))])


def test_arms_and_metric_arrive_in_results_json(folder: Path, tiny: TinyNetworks) -> None:
    arguments = predictor_arguments("fit", Path("run"), tiny, "--config=dsg.yaml", "--config=diversity.yaml")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("TAG_LIGHTNING_TRACEBACK", None)
    command = [sys.executable, "-m", "tag_lightning", *arguments]
    finished = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert finished.returncode == 0, finished.stdout
    written = json.loads((folder / "run/results.json").read_text())
    arms = written["arms"]
    assert {"dps", "dps+tag", "dsg", "dps+dsg"} < set(arms)
    values = [arm["diversity"] for arm in (*arms.values(), written["reference"])]
    assert all(value > 0 for value in values)
    assert len(set(values)) == len(values)
    assert "diversity" in finished.stdout


def test_the_diversity_is_the_mean_distance_between_pairs(folder: Path) -> None:
    metric = importlib.import_module("my_metrics").Diversity()
    square = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    assert metric.summary({"flat": square}) == {"diversity": pytest.approx(10 / 3)}


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_a_time_predictor_trains_on_the_data_set(folder: Path, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in {"train": 24, "val": 8, "test": 8}.items():
        arrays[f"{split}_images"] = random.integers(256, size=(count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = random.integers(4, size=(count, 1), dtype=np.uint8)
    np.savez(folder / "images.npz", **arrays)
    channels = shape[-1] if len(shape) == 3 else 1
    main(
        [
            "fit",
            "--config=npz.yaml",
            f"--model.init_args.network.init_args.in_channels={channels}",
            "--data.init_args.batch_size=8",
            "--model.init_args.noise_draws=1",
            "--trainer.accelerator=cpu",
            "--trainer.max_steps=2",
            "--trainer.limit_val_batches=1",
        ]
    )
    checkpoint = torch.load(folder / "runs/npz/time_predictor/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    table = importlib.import_module("my_data").NpzDataModule(str(folder / "images.npz")).table("train")
    first = torch.from_numpy(arrays["train_images"][0]).float().reshape(28, 28, channels).permute(2, 0, 1)
    torch.testing.assert_close(table[[0]].x[0], first / 127.5 - 1)


def test_a_missing_data_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config=npz.yaml", "--trainer.accelerator=cpu"])
    assert "images.npz does not exist; set data.init_args.path" in capsys.readouterr().err


def test_the_readme_compares_in_python(folder: Path) -> None:
    (block,) = (block for block in blocks("README.md") if block.language == "python")
    # Fewer samples and steps, for speed.
    text = block.text.replace("num_samples=64, num_steps=10", "num_samples=12, num_steps=2, chunk_size=12")
    assert text != block.text
    scope: dict[str, object] = {}
    exec(compile(text, "README.md", "exec"), scope)
    written = json.loads((folder / "runs/digits/compare/results.json").read_text())
    assert list(written["arms"]) == ["unguided", "strong dps", "strong dps+tag"]
    assert all(figures["num_samples"] == 12 for figures in written["arms"].values())
    gaps = [figures["time_gap"] for figures in written["arms"].values()]
    assert len(set(gaps)) == 3


@pytest.mark.parametrize(("place", "moved", "result"), [(1, "x", "x"), (2, "latents", "images")])
def test_the_loops_of_diffusers_draw_digits(place: int, moved: str, result: str) -> None:
    """The scripts of docs/diffusers.md, and that TAG does something in them."""
    script = blocks("docs/diffusers.md")[place]
    correction = f"{moved} = tag.moved(scheduler, index, {moved})"
    assert correction in script.text
    samples = []
    for text in (script.text, script.text.replace(correction, "pass")):
        names: dict[str, Any] = {}
        exec(text, names)
        samples.append(names[result])
    assert samples[0].shape == (4, 3, 16, 16)
    assert samples[0].abs().max() <= 1 + 1e-5
    assert not torch.allclose(*samples)


def test_the_two_lines_for_a_pipeline_run() -> None:
    """In a stand-in that calls the callback as diffusers does; the pipeline itself has a test of its own."""
    scheduler = DDIMScheduler(100)
    scheduler.set_timesteps(3)

    def pipeline(prompt: str, callback_on_step_end: Any) -> SimpleNamespace:
        latents = torch.ones(1, 4, 8, 8)
        for index, timestep in enumerate(scheduler.timesteps):
            tensors = {"latents": latents}
            latents = callback_on_step_end(SimpleNamespace(scheduler=scheduler), index, timestep, tensors)["latents"]
        return SimpleNamespace(images=latents)

    lines, *_ = blocks("docs/diffusers.md")
    predictor = SimpleCNN(8, 4, 100, widths=(8,))
    predictor.typical_nll.fill_(1.0)
    names = {"predictor": predictor.requires_grad_(False), "prompt": "a digit", "pipeline": pipeline}
    exec(lines.text, names)
    assert not torch.equal(names["image"], torch.ones(4, 8, 8))
