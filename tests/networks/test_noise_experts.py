"""Experts per range of noise: which answers for which timestep, silent at first, saved without their classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_runs import seeded
from torch import Tensor

from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import ImageClassifier, NoiseExperts, SimpleCNN
from tag_lightning.networks.noise_experts import _LowRank
from tag_lightning.pretrained import load_pretrained, save_pretrained

TOTAL = 20


def classifier(seed: int = 0) -> ImageClassifier:
    made = seeded(lambda: ImageClassifier(1, 4, widths=(8, 8)), seed)
    assert isinstance(made, ImageClassifier)
    return made.eval()


def experts(base: str = "base", count: int = 4, awake: bool = True) -> NoiseExperts:
    made = NoiseExperts.on(classifier(), base, TOTAL, count, rank=2)
    if awake:
        for layer in made.tuned:
            for number, change in enumerate(layer.changes, 1):
                for parameter in change.parameters():
                    torch.nn.init.constant_(parameter, 0.05 * number)
    return made


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("count", [1, 3, 4, 7, 20])
def test_the_ranges_follow_each_other_and_cover_all_timesteps(count: int) -> None:
    """Expert n from the first timestep of at least ``n T / N``."""
    chosen = experts(count=count, awake=False).expert_of(torch.arange(TOTAL)).tolist()
    assert chosen == [max(n for n in range(count) if t * count >= n * TOTAL) for t in range(TOTAL)]
    assert set(chosen) == set(range(count))


def test_the_boundaries_of_the_published_five() -> None:
    network = NoiseExperts.on(classifier(), "base", 1000, 5, rank=1)
    timesteps = torch.tensor([0, 199, 200, 399, 400, 599, 600, 799, 800, 999])
    assert network.expert_of(timesteps).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_each_sample_is_answered_by_the_expert_of_its_timestep() -> None:
    network, x = experts(), images(8)
    timesteps = torch.tensor([19, 0, 5, 4, 10, 9, 14, 15])
    with torch.no_grad():
        together = network(x, timesteps)
        alone = torch.cat([network(x[i : i + 1], timesteps[i : i + 1]) for i in range(8)])
        torch.testing.assert_close(together, alone)
        answers = [network(x[:1], torch.tensor([t])) for t in range(TOTAL)]
    for earlier, later in ((0, 4), (5, 9), (10, 14), (15, 19)):
        assert torch.equal(answers[earlier], answers[later])
    assert all(not torch.allclose(answers[t], answers[t + 1]) for t in (4, 9, 14))


def test_new_experts_are_the_classifier_and_clean_images_are_always_its_own() -> None:
    x, timesteps = images(4), torch.tensor([0, 7, 12, 19])
    with torch.no_grad():
        expected = classifier()(x)
        torch.testing.assert_close(experts(awake=False)(x, timesteps), expected)
        network = experts()
        torch.testing.assert_close(network(x), expected)
        assert not torch.allclose(network(x, timesteps), expected, atol=1e-3)
        torch.testing.assert_close(network(x), expected)  # nothing is remembered


def test_gradients_reach_the_image_and_the_expert_that_was_asked_alone() -> None:
    network, x = experts(), images(3).requires_grad_(True)
    network(x, torch.tensor([6, 7, 8])).square().sum().backward()
    assert bool((x.grad.flatten(1).norm(dim=1) > 0).all())  # type: ignore[union-attr]
    for layer in network.tuned:
        for number, change in enumerate(layer.changes):
            assert all((parameter.grad is not None) == (number == 1) for parameter in change.parameters())
    assert all(parameter.grad is None for parameter in network.frozen.parameters())


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0)])
def test_the_addition_is_that_of_a_kernel_of_low_rank(stride: int, padding: int) -> None:
    """``(W + B A) * x``, by the convolution with the product of both kernels."""
    layer = torch.nn.Conv2d(3, 5, 3, stride=stride, padding=padding).double()
    change = _LowRank(layer, rank=2).double()
    torch.nn.init.normal_(change.up.weight)
    torch.nn.init.normal_(change.up.bias)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    product = torch.einsum("or,rihw->oihw", change.up.weight[:, :, 0, 0], change.down.weight)
    expected = F.conv2d(x, layer.weight + product, layer.bias + change.up.bias, stride, padding)
    torch.testing.assert_close(layer(x) + change(x, layer(x)), expected)
    assert torch.linalg.matrix_rank(product.flatten(1)) == 2


def test_the_classifier_under_the_experts_stays_in_evaluation_mode() -> None:
    """Its dropout would make the loss of new experts other than zero."""
    network = experts().train()
    assert network.training
    assert not any(module.training for module in network.frozen.modules())


def test_experts_are_saved_alone_and_come_back_on_their_classifier(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "base", classifier(), None)
    network, x, timesteps = experts(str(tmp_path / "base")), images(4), torch.tensor([0, 7, 12, 19])
    save_pretrained(tmp_path / "saved", network, LinearSchedule(TOTAL))
    assert not any("frozen" in name for name in load_file(tmp_path / "saved" / "diffusion_pytorch_model.safetensors"))
    loaded = load_pretrained(tmp_path / "saved").network
    assert loaded.num_classes == 4
    with torch.no_grad():
        torch.testing.assert_close(loaded(x, timesteps), network(x, timesteps))
    save_pretrained(tmp_path / "base", classifier(seed=1), None)
    with pytest.raises(ValueError, match=r"the NoiseExperts was trained on another ImageClassifier than .*base is now"):
        load_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_experts": 0}, "num_experts must lie in 1 .. 20"),
        ({"num_experts": 21}, "num_experts must lie in 1 .. 20"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
    ],
)
def test_impossible_experts_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NoiseExperts.on(classifier(), "base", TOTAL, **settings)


def test_another_kind_of_network_is_refused() -> None:
    with pytest.raises(ValueError, match="base mine is a SimpleCNN; experts are made on an ImageClassifier"):
        NoiseExperts.on(SimpleCNN(8, num_timesteps=TOTAL, widths=(8,)), "mine", TOTAL)
