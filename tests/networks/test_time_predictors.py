from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from tag_lightning.networks import MLPTimePredictor, SimpleCNN, TimePredictor, UNetEncoder


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("size", "channels", "total", "widths"),
    [(32, 3, 1000, (32, 64, 128, 256)), (8, 1, 100, (16, 32)), (16, 2, 7, (8, 8, 8, 8))],
)
def test_simple_cnn_has_the_layers_of_the_paper(size: int, channels: int, total: int, widths: tuple[int, ...]) -> None:
    """3x3 convolutions with biases, and one linear layer from what is left of the image."""
    network = SimpleCNN(size, channels, total, widths)
    convolutions = sum(9 * a * b + b for a, b in pairwise((channels, *widths)))
    left = widths[-1] * (size // 2 ** len(widths)) ** 2
    assert count(network) == convolutions + left * total + total
    assert network(torch.zeros(5, channels, size, size)).shape == (5, total)
    assert network.num_timesteps == total


def test_default_simple_cnn_has_its_stated_size() -> None:
    assert count(SimpleCNN()) == 1_413_416


def test_simple_cnn_follows_its_formula() -> None:
    """Convolution, ReLU and mean over 2x2 patches, written out."""
    network, x = SimpleCNN(4, 2, 6, widths=(3, 5)).double(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    h = x
    for convolution, _, _ in network.blocks:
        padded = nn.functional.pad(h, (1, 1, 1, 1))
        patches = padded.unfold(2, 3, 1).unfold(3, 3, 1)
        h = torch.einsum("bcijkl,ockl->boij", patches, convolution.weight)
        h = (h + convolution.bias[:, None, None]).clamp(min=0)
        h = (h[:, :, ::2, ::2] + h[:, :, 1::2, ::2] + h[:, :, ::2, 1::2] + h[:, :, 1::2, 1::2]) / 4
    expected = h.reshape(2, -1) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(("size", "widths", "multiple"), [(28, (8, 8, 8), 8), (8, (8,) * 4, 16), (0, (8,), 2)])
def test_images_that_cannot_be_halved_are_refused(size: int, widths: tuple[int, ...], multiple: int) -> None:
    with pytest.raises(ValueError, match=rf"must be a multiple of {multiple}, got {size}; resize the images"):
        SimpleCNN(size, 1, 10, widths)


@pytest.mark.parametrize("build", [lambda t: SimpleCNN(8, 1, t, (8,)), lambda t: MLPTimePredictor(2, t)])
@pytest.mark.parametrize("total", [1, 0, -5])
def test_telling_fewer_than_two_timesteps_apart_is_refused(build: type[TimePredictor], total: int) -> None:
    with pytest.raises(ValueError, match=f"num_timesteps must be at least 2, got {total}"):
        build(total)


def test_the_unet_encoder_has_its_stated_size_and_looks_everywhere() -> None:
    with torch.device("meta"):
        assert round(count(UNetEncoder()) / 1e6, 1) == 16.1
    network, x = UNetEncoder(8, 1, 30, widths=(8, 16), layers_per_block=1), torch.randn(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x)[:, 7].sum(), x)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize(
    ("size", "widths", "message"),
    [(9, (8, 8), "must be a multiple of 2, got 9; resize the images"), (8, (8, 12), "multiples of 8, .* got .8, 12")],
)
def test_impossible_unet_encoders_are_refused(size: int, widths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetEncoder(size, 1, 10, widths)


def test_perceptron_has_its_layers() -> None:
    network = MLPTimePredictor(3, 50, widths=(8, 16))
    assert count(network) == (3 * 8 + 8) + (8 * 16 + 16) + (16 * 50 + 50)
    assert network(torch.zeros(4, 3)).shape == (4, 50)


def test_typical_likelihood_is_unknown_until_measured() -> None:
    network = MLPTimePredictor(2, 20)
    assert network.typical_nll.shape == (20,)
    assert bool(network.typical_nll.isnan().all())


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (SimpleCNN(8, 1, 30, widths=(8, 16)), torch.randn(3, 1, 8, 8)),
        (MLPTimePredictor(4, 30, widths=(16,)), torch.randn(3, 4)),
        (UNetEncoder(8, 1, 30, widths=(8, 16), layers_per_block=1), torch.randn(3, 1, 8, 8)),
    ],
    ids=["cnn", "mlp", "unet encoder"],
)
def test_saving_and_loading_changes_nothing(network: TimePredictor, x: torch.Tensor, tmp_path: Path) -> None:
    network.typical_nll[:29] = torch.rand(29)
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert torch.equal(loaded(x), network(x))
    torch.testing.assert_close(loaded.typical_nll, network.typical_nll, rtol=0, atol=0, equal_nan=True)
    assert not loaded.training


def test_logits_of_a_sample_ignore_the_rest_of_its_batch() -> None:
    network, x = SimpleCNN(8, 1, 30, widths=(8, 16)), torch.randn(6, 1, 8, 8)
    torch.testing.assert_close(network(x)[4:5], network(x[4:5]), rtol=1e-4, atol=1e-6)
