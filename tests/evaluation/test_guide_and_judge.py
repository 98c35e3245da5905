"""Who guides and who judges: two networks of opposite opinions, each known by its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from sampling_runs import tiny_data
from tiny_runs import TinyNetworks, seeded
from torch import nn

from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.evaluation import Arm, ImageTask, MoleculeTask, compare
from tag_lightning.guidance import DPS, Condition
from tag_lightning.networks import EGNNPropertyPredictor, ImageClassifier
from tag_lightning.pretrained import load_pretrained, save_pretrained

CPU = torch.device("cpu")
FIRST, SECOND = 3, 7
"""What two classifiers say of every image."""


class Classifiers(NamedTuple):
    """Folders of classifiers: two that always say the same, and one that looks at the image."""

    first: str
    second: str
    looking: str


def stubborn(label: int) -> ImageClassifier:
    network = ImageClassifier(widths=(8, 8))
    nn.init.zeros_(network.head.weight)
    with torch.no_grad():
        network.head.bias.copy_(5 * F.one_hot(torch.tensor(label), 10).float())
    return network


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Classifiers:
    root = tmp_path_factory.mktemp("opinions")
    looking = seeded(lambda: ImageClassifier(widths=(8, 8)), 4)
    for name, network in {"first": stubborn(FIRST), "second": stubborn(SECOND), "looking": looking}.items():
        save_pretrained(root / name, network, None)
    return Classifiers(*(str(root / name) for name in Classifiers._fields))


def task_of(guide: str, judge: str, label: int) -> ImageTask:
    return ImageTask(guide, judge, labels=[label], features="judge").for_data(tiny_data()).for_samples(6)


@pytest.mark.parametrize(("asked", "accuracy"), [(FIRST, 0.0), (SECOND, 1.0)])
def test_accuracy_is_the_judges(asked: int, accuracy: float, classifiers: Classifiers) -> None:
    task = task_of(classifiers.first, classifiers.second, asked)
    rows = task.rows(torch.rand(6, 3, 8, 8) * 2 - 1, range(6))
    assert task.summary({name: values.double() for name, values in rows.items()})["accuracy"] == accuracy


def test_features_are_the_judges(classifiers: Classifiers) -> None:
    task = task_of(classifiers.first, classifiers.looking, FIRST)
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge = load_pretrained(classifiers.looking).network
    assert isinstance(judge, ImageClassifier)
    with torch.no_grad():
        torch.testing.assert_close(task.rows(x, range(6))["features"].float(), judge.features(x))


def test_the_gradient_is_the_guides(classifiers: Classifiers) -> None:
    """A network that always says the same has none."""
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    guide = load_pretrained(classifiers.looking).network
    known = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-F.cross_entropy(guide(known), torch.full((4,), FIRST), reduction="sum"), known)
    assert float(expected.norm()) > 0
    pairs = {
        (classifiers.looking, classifiers.second): expected,
        (classifiers.second, classifiers.looking): torch.zeros_like(x),
    }
    for (guides, judges), gradient in pairs.items():
        task = task_of(guides, judges, FIRST)
        shown = x.clone().requires_grad_()
        likelihood = task.conditions(range(4), CPU)["label"].log_likelihood(shown).sum()
        torch.testing.assert_close(torch.autograd.grad(likelihood, shown)[0], gradient)


@pytest.mark.parametrize("looks", ["guide", "judge"])
def test_a_run_is_moved_by_its_guide_and_scored_by_its_judge(
    looks: str, classifiers: Classifiers, tiny: TinyNetworks
) -> None:
    other = {"guide": "judge", "judge": "guide"}[looks]
    roles: dict[str, Any] = {looks: classifiers.looking, other: classifiers.first}
    arms = {"unguided": Arm(), "dps": Arm([DPS(scale=50.0)])}
    task = ImageTask(**roles, labels=[FIRST], features="judge").for_data(tiny_data())
    results = compare(arms, tiny.root / "denoiser", task, num_samples=6, num_steps=3, chunk_size=4, progress=False)
    unguided, guided = (results[name] for name in arms)
    assert torch.equal(unguided.samples, guided.samples) == (looks == "judge")
    if looks == "guide":
        assert unguided.figures["accuracy"] == guided.figures["accuracy"] == 1


def certain(names: tuple[str, ...], values: list[float]) -> EGNNPropertyPredictor:
    """Says the same of every molecule."""
    network = EGNNPropertyPredictor(names, width=8, num_layers=1)
    last = network.molecule[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    network.mean.copy_(torch.tensor(values))
    return network


def test_molecules_are_judged_by_the_judge_and_guided_by_the_guide(tmp_path: Path) -> None:
    data = SmallMoleculesDataModule(max_heavy_atoms=2, cache=None)
    data.setup("validate")
    save_pretrained(tmp_path / "guide", certain(("alpha",), [30.0]), None)
    save_pretrained(tmp_path / "judge", certain(("alpha",), [50.0]), None)
    task = MoleculeTask(str(tmp_path / "guide"), str(tmp_path / "judge")).for_data(data).for_samples(6)
    batch = data.table("train")[[0, 1]]
    x = task.pad(batch.x)
    assert task.rows(x, range(2))["judged"].tolist() == [[50.0], [50.0]]
    condition = task.conditions(range(2), CPU)["alpha"]
    assert isinstance(condition, Condition)
    assert condition.predictor(batch.x, **batch.inputs).tolist() == [30.0, 30.0]
