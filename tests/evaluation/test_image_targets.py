"""Several attributes asked of one image: classes, values and ranges, their conditions and their figures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_runs import tiny_data, tiny_module, tiny_sampling, tiny_task, tiny_trainer
from tiny_runs import TinyNetworks

from tag_lightning.evaluation import Arm, ClassTarget, ImageTask, QuantityTarget, compare
from tag_lightning.guidance import DPS, Hinge, SquaredError
from tag_lightning.networks import Hue, ImageClassifier, Ink

CPU = torch.device("cpu")


def bound(count: int = 6, **settings: Any) -> ImageTask:
    task = ImageTask(features="pixels", **settings)
    return task.for_data(tiny_data()).for_samples(count)


def real(task: ImageTask, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = task.data.table("test")[list(range(0, 35 * count, 35))]
    return batch.x, batch.attributes


def test_all_combinations_of_classes_are_asked_for() -> None:
    further = {"hue": ClassTarget(labels=[1, 5, 6])}
    task = bound(labels=[3, 7], further_targets=further)
    asked = task.attributes(range(6), CPU)
    pairs = list(zip(asked["label"].tolist(), asked["hue"].tolist(), strict=True))
    assert pairs == [(label, hue) for hue, label in product([1, 5, 6], [3, 7])]


def test_each_target_with_a_guide_is_a_condition_of_its_name() -> None:
    further = {"hue": ClassTarget(Hue()), "ink": QuantityTarget(Ink(), at_least=0.3)}
    task = bound(further_targets=further)
    assert task.guided
    conditions = task.conditions(range(4), CPU)
    assert list(conditions) == ["hue", "ink"]
    assert isinstance(conditions["ink"].loss, Hinge)
    assert not bound().guided
    assert "ink" not in task.attributes(range(4), CPU), "a range has no value to tell a time predictor"


def test_a_quantity_without_range_takes_values_of_training_images() -> None:
    task = bound(further_targets={"ink": QuantityTarget(Ink())})
    condition = task.conditions(range(5), CPU)["ink"]
    assert isinstance(condition.loss, SquaredError)
    train = task.data.table("train").grey.attributes["ink"]
    assert torch.isin(condition.target, train).all()
    assert torch.equal(condition.target, task.attributes(range(5), CPU)["ink"])
    assert torch.equal(task.attributes([4], CPU)["ink"], condition.target[4:]), "of its index alone"
    torch.testing.assert_close(condition.loss.spread, (train - train.mean()).abs().mean(), rtol=0.05, atol=0)


def test_figures_are_those_counted_by_hand() -> None:
    further = {
        "hue": ClassTarget(judge=Hue()),
        "ink": QuantityTarget(judge=Ink(), at_least=0.3, at_most=0.34),
    }
    task = bound(40, further_targets=further)
    x, attributes = real(task, 40)
    rows = {name: row.double() for name, row in task.rows(x, range(40)).items() if name != "features"}
    figures = {k: v for m in task.metrics if "features" not in m.columns for k, v in m.summary(rows).items()}
    hue = attributes["hue"] == torch.arange(40) // 10 % 8
    ink = (attributes["ink"] >= 0.3) & (attributes["ink"] <= 0.34)
    distance = (0.3 - attributes["ink"]).clamp(min=0) + (attributes["ink"] - 0.34).clamp(min=0)
    assert figures == pytest.approx(
        {
            "accuracy_hue": float(hue.float().mean()),
            "accuracy_ink": float(ink.float().mean()),
            "accuracy_all": float((hue & ink).float().mean()),
            "mae_ink": float(distance.mean()),
        }
    )
    assert 0 < figures["accuracy_all"] < figures["accuracy_ink"] < 1


def test_the_judge_of_the_first_attribute_counts_in_the_conjunction(tiny: TinyNetworks) -> None:
    task = tiny_task(tiny, further_targets={"hue": ClassTarget(judge=Hue())}).for_data(tiny_data()).for_samples(4)
    rows = {"correct": torch.tensor([[1.0], [1], [0], [0]]), "satisfied": torch.tensor([[1.0], [0], [1], [0]])}
    conjunction = next(metric for metric in task.metrics if "satisfied" in metric.columns)
    assert conjunction.summary(rows) == {"accuracy_hue": 0.5, "accuracy_all": 0.25}
    above, below = conjunction.terms(rows)["accuracy_all"]
    assert (above.tolist(), below.tolist()) == ([1, 0, 0, 0], [1, 1, 1, 1])


def test_values_are_measured_by_their_mean_absolute_error() -> None:
    task = bound(8, further_targets={"ink": QuantityTarget(judge=Ink())})
    x, attributes = real(task, 8)
    metric = next(metric for metric in task.metrics if "quantities" in metric.columns)
    rows = {"quantities": metric.rows(x, range(8))["quantities"].double()}
    error = (attributes["ink"] - task.attributes(range(8), CPU)["ink"]).abs().mean()
    assert metric.summary(rows)["mae_ink"] == pytest.approx(float(error), rel=1e-5)
    assert len(task.metrics) == 2, "a value is not satisfied or not, so that there is no accuracy"


def test_guidance_by_each_target_alone_moves_towards_it(tiny: TinyNetworks) -> None:
    further = {"ink": QuantityTarget(Ink(), Ink(), at_least=0.9)}
    task = ImageTask(features="pixels", further_targets=further).for_data(tiny_data())
    arms = {"unguided": Arm(), "ink": Arm([DPS("ink", scale=5.0)])}
    results = compare(arms, tiny.root / "denoiser", task, 4, num_steps=4, chunk_size=4, progress=False)
    assert results["ink"].figures["mae_ink"] < results["unguided"].figures["mae_ink"] - 0.01
    assert results["ink"].figures.keys() >= {"fid", "mae_ink", "accuracy_ink", "accuracy_all"}


MISTAKES: list[tuple[dict[str, Callable[[], Any]], str]] = [
    ({"hue": lambda: ClassTarget(labels=[8])}, r"further_targets hue: labels must be classes 0 \.\. 7 of 'hue'"),
    ({"hue": lambda: ClassTarget(labels=[])}, "further_targets hue: labels must be classes"),
    ({"shade": lambda: ClassTarget()}, "further_targets shade: attribute is 'shade', but the data have hue, label"),
    ({"slant": lambda: QuantityTarget(Ink())}, "attribute 'slant' is not a quantity of the data, which have ink"),
    ({"label": lambda: ClassTarget()}, "the task asks for this attribute already"),
    ({"hue": lambda: ClassTarget(ImageClassifier(widths=(8,)))}, "tells 10 classes apart, but the data have 8"),
    ({"ink": lambda: QuantityTarget(Hue())}, r"guide Hue returns \[1, 8\] for one image, expected one quantity \[1\]"),
]


@pytest.mark.parametrize(("further", "message"), MISTAKES)
def test_mistakes_are_named_before_anything_is_drawn(further: dict[str, Callable[[], Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(further_targets={name: build() for name, build in further.items()})


def test_a_mistake_is_found_where_the_configuration_has_it(tmp_path: Path, tiny: TinyNetworks) -> None:
    sampling = tiny_sampling(tiny, task=tiny_task(tiny, further_targets={"hue": ClassTarget(labels=[9])}))
    with pytest.raises(ValueError, match=r"^sampling\.task\.init_args\.further_targets hue: labels must"):
        tiny_trainer(tmp_path, sampling).fit(tiny_module(), datamodule=tiny_data())
