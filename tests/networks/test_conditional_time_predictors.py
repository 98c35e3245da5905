"""Time predictors conditioned on classes or quantities."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tag_lightning.guidance import TemporalAlignment
from tag_lightning.networks import EGNNTimePredictor, MLPTimePredictor, SimpleCNN, TimePredictor
from tag_lightning.networks.time_predictor import ConditionedTimePredictor
from tag_lightning.pretrained import load_pretrained, save_pretrained

T = 12
BOTH = {"label": 3, "alpha": 0}
VALUES = {"label": torch.tensor([0, 2]), "alpha": torch.tensor([70.0, 80.0]), "unused": torch.zeros(2)}
MASK = {"mask": torch.tensor([[True] * 3, [True, True, False]])}

KINDS = {
    "image": (lambda c: SimpleCNN(8, 1, T, (4,), c), torch.randn(2, 1, 8, 8), {}),
    "vector": (lambda c: MLPTimePredictor(2, T, (8,), c), torch.randn(2, 2), {}),
    "molecule": (lambda c: EGNNTimePredictor(2, T, 8, 1, c), torch.randn(2, 3, 5), MASK),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("label",), ("alpha",), ("label", "alpha")])
def test_what_is_told_matters(kind: str, names: tuple[str, ...]) -> None:
    build, x, inputs = KINDS[kind]
    network = build({name: BOTH[name] for name in names})
    assert network.conditions == tuple(sorted(names))
    told = ConditionedTimePredictor(network, VALUES)(x, **inputs)
    assert told.shape == (2, T)
    for name in names:
        other = ConditionedTimePredictor(network, VALUES | {name: VALUES[name].flip(0)})(x, **inputs)
        assert not torch.allclose(told, other)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unconditional_kind_ignores_all(kind: str) -> None:
    build, x, inputs = KINDS[kind]
    network = build(None)
    assert network.conditions == ()
    torch.testing.assert_close(ConditionedTimePredictor(network, VALUES)(x, **inputs), network(x, **inputs))


def test_a_condition_that_is_not_told_is_named() -> None:
    with pytest.raises(ValueError, match="trained with the condition 'alpha', which is missing"):
        MLPTimePredictor(2, T, (8,), BOTH)(torch.zeros(2, 2), label=VALUES["label"])


def test_quantities_are_seen_relative_to_the_data() -> None:
    network = MLPTimePredictor(2, T, (8,), {"alpha": 0})
    assert network.embedding is not None
    before = network(torch.zeros(1, 2), alpha=torch.tensor([1.0]))
    network.embedding.measure([{"alpha": torch.tensor([60.0, 80.0])}, {"alpha": torch.tensor([70.0])}])
    assert network.embedding.mean.item() == pytest.approx(70)
    assert network.embedding.spread.item() == pytest.approx(20 / 3)
    after = network(torch.zeros(1, 2), alpha=torch.tensor([70 + 20 / 3]))
    torch.testing.assert_close(after, before)


def test_a_quantity_of_one_value_is_refused() -> None:
    network = MLPTimePredictor(2, T, (8,), BOTH)
    assert network.embedding is not None
    with pytest.raises(
        ValueError, match=r"^alpha is 60 in all 2 training samples, so a network cannot learn it; leave"
    ):
        network.embedding.measure([{"alpha": torch.tensor([60.0, 60.0]), "label": torch.tensor([0, 1])}])


def test_conditions_are_saved_with_the_network(tmp_path: Path) -> None:
    network: TimePredictor = MLPTimePredictor(2, T, (8,), BOTH)
    assert network.embedding is not None
    network.embedding.measure([VALUES])
    save_pretrained(tmp_path / "p", network, None)
    loaded = load_pretrained(tmp_path / "p").network
    assert isinstance(loaded, TimePredictor)
    assert loaded.conditions == ("alpha", "label")
    x = torch.randn(2, 2)
    torch.testing.assert_close(
        ConditionedTimePredictor(loaded, VALUES)(x), ConditionedTimePredictor(network, VALUES)(x)
    )


def test_tag_follows_the_gradient_of_the_told_predictor() -> None:
    network = MLPTimePredictor(2, T, (8,), BOTH).double()
    told, x = ConditionedTimePredictor(network, VALUES), torch.randn(2, 2, dtype=torch.float64)
    score = TemporalAlignment(told).time_linked_score(x, 4)

    def log_posterior(at: Tensor) -> Tensor:
        return told(at).log_softmax(1)[:, 4].sum()

    torch.testing.assert_close(score, torch.autograd.functional.jacobian(log_posterior, x))


def test_negative_numbers_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="or 0 for a quantity"):
        MLPTimePredictor(2, T, (8,), {"label": -1})
