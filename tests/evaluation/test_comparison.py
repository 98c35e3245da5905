"""``compare`` without a Trainer: what a notebook does in five lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_runs import tiny_data, tiny_module, tiny_sampling, tiny_task, tiny_trainer
from tiny_runs import TinyNetworks
from torch import Tensor

from tag_lightning.diffusion import DDIM, Guidance, Predict, Step
from tag_lightning.evaluation import Arm, ArmSampler, ImageTask, Results, SamplingTask, compare
from tag_lightning.guidance import DPS, TemporalAlignment
from tag_lightning.metrics import FID, SampleMetric

TAG, GUIDED = TemporalAlignment(strength=0.1), DPS(scale=8.0)
ARMS = {"unguided": Arm(), "dps": Arm([GUIDED]), "dps+tag": Arm([TAG, GUIDED])}
METRICS = ("fid", "accuracy", "time_gap", "num_samples")


def results_of(tiny: TinyNetworks, task: SamplingTask | None = None, **settings: Any) -> Results:
    task = tiny_task(tiny).for_data(tiny_data()) if task is None else task
    common = {"num_samples": 6, "num_steps": 3, "chunk_size": 4, "progress": False, **settings}
    return compare(ARMS, tiny.root / "denoiser", task, predictor=tiny.root / "predictor", solver=DDIM(0.0), **common)


def figures_of(results: Results) -> dict[str, dict[str, float]]:
    return {name: {metric: figures[metric] for metric in METRICS} for name, figures in results.figures.items()}


def test_a_comparison_is_a_table_and_a_folder(tiny: TinyNetworks, tmp_path: Path) -> None:
    results = results_of(tiny)
    assert list(results) == list(ARMS)
    shown = str(results)
    assert all(name in shown for name in (*ARMS, *METRICS))
    results.save(tmp_path / "run", {"mine": 1})
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["arms"]["dps"]["fid"] == results["dps"].figures["fid"] > 0
    assert (saved["config"], saved["features"], saved["num_reference"]) == ({"mine": 1}, "judge", 8 * 1437)
    for name in ("arms.png", "time_gap.png", "time_gap.csv", "samples/unguided.png", "samples/dps+tag.png"):
        assert (tmp_path / "run" / name).stat().st_size > 100


def test_the_callback_gives_the_same_figures(tiny: TinyNetworks, tmp_path: Path) -> None:
    sampling = tiny_sampling(tiny, predictor=str(tiny.root / "predictor"), arms=ARMS, solver=DDIM(0.0))
    tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data(), verbose=False)
    alone = results_of(tiny)
    assert {name: alone.figures[name]["fid"] for name in ARMS} == {
        name: result.figures["fid"] for name, result in sampling.results.items()
    }
    assert torch.equal(alone["dps+tag"].samples, sampling.results["dps+tag"].samples)


def test_networks_may_be_names_or_objects(tiny: TinyNetworks) -> None:
    named = results_of(tiny)
    task = named.task
    assert isinstance(task, ImageTask)
    objects = ImageTask(guide=task.guide, judge=task.judge, features="judge").for_data(tiny_data())
    assert figures_of(results_of(tiny, objects)) == figures_of(named)
    with pytest.raises(ValueError, match="guide and judge are both ImageClassifier; the network that guides must not"):
        ImageTask(guide=task.guide, judge=task.guide).for_data(tiny_data())


def test_seed_and_number_of_samples_reach_the_task(tiny: TinyNetworks) -> None:
    task = tiny_task(tiny).for_data(tiny_data())
    first, second = (results_of(tiny, task, seed=seed) for seed in (0, 1))
    assert (first.task.seed, second.task.seed) == (0, 1)
    assert not torch.equal(first["unguided"].samples, second["unguided"].samples)
    fewer = results_of(tiny, first.task, num_samples=5)
    assert fewer["dps"].figures["num_samples"] == 5
    assert fewer.task.num_reference == first.task.num_reference == 8 * 1437
    assert fewer["dps"].figures["fid"] == results_of(tiny, task, num_samples=5)["dps"].figures["fid"]
    # A task that was bound before can be bound to other data.
    assert results_of(tiny, first.task.for_data(tiny_data())).task.metrics[0] is not first.task.metrics[0]


def test_a_task_without_data_is_refused(tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match=r"the ImageTask has no data yet; pass task\.for_data\(datamodule\)"):
        results_of(tiny, tiny_task(tiny))


class MeanColour(SampleMetric):
    """Looks at the real data as well."""

    needs_real = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    @property
    def columns(self) -> dict[str, int]:
        return {"mean": 1}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"mean": x.flatten(1).mean(1)}

    def add_real(self, batch: Any, device: torch.device) -> None:
        self.seen.append(len(batch.x))

    def summary(self, rows: Any) -> dict[str, float]:
        return {"mean": float(rows["mean"].mean())}


def test_real_data_are_passed_over_once_for_all_metrics_and_comparisons(
    tiny: TinyNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, passes = tiny_data(), []
    loader = data.reference_dataloader

    def counted() -> Iterator[Any]:
        passes.append(1)
        yield from loader()

    colour = MeanColour()
    task = tiny_task(tiny, metrics=[colour]).for_data(data).for_samples(6)
    for _ in range(2):
        results = results_of(tiny, task, reference=counted())
    assert len(passes) == 1
    assert sum(colour.seen) == results.task.num_reference == 8 * 1437
    assert results["dps"].figures["mean"] == pytest.approx(float(results["dps"].samples.mean()), abs=1e-6)


def test_two_metrics_of_the_same_columns_are_refused(tiny: TinyNetworks) -> None:
    task = tiny_task(tiny, metrics=[FID("judge")]).for_data(tiny_data())
    with pytest.raises(ValueError, match="metrics have more than one column named features"):
        task.for_samples(6)


def test_nothing_is_drawn_before_all_arms_are_checked(tiny: TinyNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*_: object) -> None:
        raise AssertionError("an arm was drawn")

    monkeypatch.setattr(ArmSampler, "draw", draw)
    task = tiny_task(tiny).for_data(tiny_data())
    with pytest.raises(ValueError, match=r"arm few: num_steps must lie in 1 \.\. 20"):
        compare({"one": Arm(num_steps=1), "few": Arm(num_steps=0)}, tiny.root / "denoiser", task, num_samples=4)


def test_evaluation_imports_neither_lightning_nor_callbacks_nor_data() -> None:
    forbidden = ("tag_lightning.callbacks", "tag_lightning.datamodules", "tag_lightning.modules", "lightning")
    for file in Path("tag_lightning/evaluation").glob("*.py"):
        imported = [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in imported for name in forbidden if line.split()[1].startswith(name)], file


def test_chunks_are_no_larger_than_the_comparison_and_their_size_changes_rounding_alone(tiny: TinyNetworks) -> None:
    drawn: list[int] = []

    class Counted(Guidance):
        def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
            drawn.append(len(x))
            return x

    task = tiny_task(tiny).for_data(tiny_data())
    settings: dict[str, Any] = {"num_samples": 6, "num_steps": 2, "solver": DDIM(0.0), "progress": False}
    samples = {
        size: compare({"counted": Arm([Counted(), GUIDED])}, tiny.root / "denoiser", task, chunk_size=size, **settings)
        for size in (1_000_000, 6, 4)
    }
    assert drawn == [6, 6] + [6, 6] + [4] * 4
    huge, six, four = (results["counted"].samples for results in samples.values())
    assert torch.equal(huge, six)
    torch.testing.assert_close(four, six, rtol=1e-4, atol=1e-4)


def test_guide_and_judge_left_in_training_mode_judge_in_evaluation_mode(tiny: TinyNetworks) -> None:
    task = tiny_task(tiny).for_data(tiny_data())
    assert task.guide is not None
    assert task.judge is not None
    expected = figures_of(results_of(tiny, task))
    task.guide.train()
    task.judge.train()
    before = {name: value.clone() for name, value in task.guide.state_dict().items()}
    assert figures_of(results_of(tiny, task)) == expected
    assert all(torch.equal(before[name], value) for name, value in task.guide.state_dict().items())
    assert task.guide.training


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_samples": 1}, "num_samples must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"rank": 3, "world_size": 2}, r"rank must lie in 0 \.\. 1"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_drawn(
    settings: dict[str, Any], named: str, tiny: TinyNetworks
) -> None:
    with pytest.raises(ValueError, match=named):
        results_of(tiny, **settings)


@pytest.mark.parametrize("arms", [[Arm()], {"dps": [GUIDED]}])
def test_arms_of_another_kind_are_refused(arms: Any, tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match="arms must be a dictionary of Arm by name"):
        compare(arms, tiny.root / "denoiser", tiny_task(tiny).for_data(tiny_data()), num_samples=4, progress=False)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"guidance": GUIDED}, r"guidance must be a list of Guidance, as in \[DPS\(\)\], got <tag_lightning"),
        ({"guidance": [3]}, r"guidance must be a list of Guidance, as in \[DPS\(\)\], got \[3\]"),
        ({"guidance": [DPS]}, "guidance must be a list of Guidance"),
        ({"num_steps": "5"}, "num_steps must be a whole number or None, got '5'"),
        ({"num_steps": 5.0}, "num_steps must be a whole number or None, got 5.0"),
        ({"recurrence": True}, "recurrence must be a whole number, a Recurrence or None, got True"),
        ({"best_of": None}, "best_of must be a whole number, got None"),
        ({"predictor": 3}, "predictor must be the name, folder or checkpoint of a time predictor, or None, got 3"),
    ],
)
def test_an_arm_of_other_types_is_refused_when_it_is_made(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        Arm(**settings)


def test_an_arm_may_have_a_time_predictor_of_its_own(tiny: TinyNetworks) -> None:
    source = str(tiny.root / "predictor")
    arms = {
        "its own": Arm([TAG], predictor=source),
        "the comparison's": Arm([TAG]),
        "none": Arm(),
    }
    common = {"num_samples": 4, "num_steps": 3, "chunk_size": 4, "progress": False}
    task = tiny_task(tiny).for_data(tiny_data())
    drawn = compare(arms, tiny.root / "denoiser", task, predictor=source, **common)
    assert torch.equal(drawn["its own"].samples, drawn["the comparison's"].samples)
    del arms["the comparison's"]
    alone = compare(arms, tiny.root / "denoiser", task, **common)
    assert torch.equal(alone["its own"].samples, drawn["its own"].samples)
    assert not torch.equal(alone["its own"].samples, alone["none"].samples)
    with pytest.raises(FileNotFoundError, match="arm lost: no network under nowhere"):
        compare({"lost": Arm([TAG], predictor="nowhere")}, tiny.root / "denoiser", task, **common)
