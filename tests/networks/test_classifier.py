from pathlib import Path

import pytest
import torch
from torch import nn

from tag_lightning.networks import ImageClassifier


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(in_channels=1, num_classes=10, widths=(16, 32)).eval()


@pytest.mark.parametrize(("channels", "classes", "widths", "size"), [(3, 10, (32, 64, 128), 32), (1, 4, (8, 16), 8)])
def test_logits_and_features_have_their_shapes(channels: int, classes: int, widths: tuple[int, ...], size: int) -> None:
    network, x = ImageClassifier(channels, classes, widths), torch.zeros(5, channels, size, size)
    assert network(x).shape == (5, classes)
    assert network.features(x).shape == (5, widths[-1])
    assert (network.num_features, network.num_classes) == (widths[-1], classes)


def test_parameters_are_those_of_its_layers() -> None:
    def stage(a: int, b: int) -> int:
        return 2 * a + (9 * a * b + b) + 2 * b + (9 * b * b + b) + (a * b + b)

    network = ImageClassifier(1, 10, (16, 32))
    expected = (9 * 16 + 16) + stage(16, 16) + stage(16, 32) + (32 * 10 + 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("training", [False, True])
def test_logits_of_a_sample_ignore_the_rest_of_its_batch(training: bool) -> None:
    """In training as well, dropout apart: statistics of a batch would be part of the weights."""
    network, x = ImageClassifier(1, 10, (16, 32), dropout=0.0).train(training), torch.randn(6, 1, 8, 8)
    x[0] *= 100
    torch.testing.assert_close(network(x)[4:5], network(x[4:5]), rtol=1e-4, atol=1e-5)


def test_logits_are_a_linear_reading_of_the_features(classifier: ImageClassifier) -> None:
    x = torch.randn(6, 1, 8, 8)
    expected = classifier.features(x) @ classifier.head.weight.T + classifier.head.bias
    torch.testing.assert_close(classifier(x), expected)


def test_features_are_dropped_in_training_only() -> None:
    network, x = ImageClassifier(1, 10, (8,), dropout=0.5), torch.randn(6, 1, 8, 8)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_every_stage_halves_the_image(classifier: ImageClassifier) -> None:
    x = torch.randn(1, 1, 32, 32)
    assert classifier.stages(classifier.stem(x)).shape == (1, 32, 8, 8)


def test_images_of_any_size_are_classified(classifier: ImageClassifier) -> None:
    for height, width in ((8, 8), (28, 28), (12, 20)):
        assert classifier(torch.zeros(2, 1, height, width)).shape == (2, 10)


def test_saving_and_loading_changes_nothing(classifier: ImageClassifier, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path)
    loaded = ImageClassifier.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(x), classifier(x))
    assert tuple(loaded.config["widths"]) == (16, 32)


def test_gradients_reach_the_image(classifier: ImageClassifier) -> None:
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    loss = nn.functional.cross_entropy(classifier(x), torch.tensor([1, 2]))
    (gradient,) = torch.autograd.grad(loss, x)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())
