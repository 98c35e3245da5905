"""Classifiers that were trained elsewhere: their normalisation, features, weights, and the published CIFAR-10 ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cifar10_images import SHARED, held_out_images
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from tag_lightning.networks import CIFARResNet, PixelClassifier


class Answer(nn.Module):
    """A classifier in the manner of Hugging Face: linear, its logits inside an object."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * 4 * 4, 5)

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.classifier(x.flatten(1)))


def test_pixels_are_normalised_as_the_network_wants_them() -> None:
    network, x = Answer(), torch.rand(6, 3, 4, 4) * 2 - 1
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    classifier = PixelClassifier(network, mean=mean.tolist(), std=std.tolist())
    by_hand = ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(classifier(x), network(by_hand).logits, atol=1e-6)
    assert torch.allclose(classifier.features(x), by_hand.flatten(1), atol=1e-6)
    assert (classifier.num_features, classifier.num_classes) == (48, 5)


def test_gradients_reach_the_pixels_and_no_weight() -> None:
    classifier = PixelClassifier(Answer(), size=4)
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    classifier(x).logsumexp(1).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_samples_of_a_batch_do_not_interact_in_training_mode() -> None:
    classifier = PixelClassifier(resnet18(num_classes=4), size=32).train()
    x = torch.randn(3, 3, 16, 16)
    assert torch.allclose(classifier(x)[:1], classifier(x[:1]), atol=1e-4)


def test_it_guides_and_judges_by_class_path(tmp_path: Path) -> None:
    from tag_lightning.cli import main

    digits = "--data=DigitsDataModule"
    task = "--sampling.task=ImageTask"
    role = "--sampling.task.init_args"
    main(
        [
            *("validate", "--config", "digits/time_predictor", "--ckpt_path", "untrained", digits, task),
            f"{role}.guide={{class_path: PixelClassifier, init_args: {{network: {{class_path: CIFARResNet}}}}}}",
            f"{role}.judge={{class_path: PixelClassifier, init_args: {{size: 16, network: "
            "{class_path: torchvision.models.resnet18, init_args: {num_classes: 10}}}}",
            *("--sampling.num_samples=4", "--sampling.num_steps=2", "--trainer.limit_val_batches=1"),
            "--sampling.arms={dps: {guidance: [{class_path: DPS}]}}",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    assert (tmp_path / "results.json").is_file()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_are_loaded_by_path(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    published, path = CIFARResNet(8), tmp_path / f"weights.{suffix}"
    prefixed = {f"module.{name}": value for name, value in published.state_dict().items()}
    if suffix == "pt":
        torch.save({"state_dict": prefixed}, path)
    else:
        save_file(prefixed, path)
    read, x = PixelClassifier(CIFARResNet(8), str(path)), torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(read(x), PixelClassifier(published)(x))


def test_the_shortcut_takes_every_second_pixel_and_pads_half_before_and_after() -> None:
    network = CIFARResNet(8).eval()
    block, x = network.layer2[0], torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        for layer in (block.conv1, block.conv2):
            layer.weight.zero_()
        assert torch.equal(block(x)[:, 8:24], x[:, :, ::2, ::2])
        assert block(x)[:, :8].abs().max() == block(x)[:, 24:].abs().max() == 0


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    save_file(CIFARResNet(20).state_dict(), tmp_path / "deeper.safetensors")
    for name in ("broken.safetensors", "broken.pt", "deeper.safetensors"):
        with pytest.raises(ValueError, match=rf"{name} cannot be loaded into CIFARResNet"):
            PixelClassifier(CIFARResNet(8), str(tmp_path / name))
    with pytest.raises(ValueError, match="do not exist"):
        PixelClassifier(CIFARResNet(8), str(tmp_path / "none.pt"))
    with pytest.raises(ValueError, match="6 n \\+ 2"):
        CIFARResNet(21)
    with pytest.raises(ValueError, match="one number per channel"):
        PixelClassifier(Answer(), std=(0.5, 0.5))
    with pytest.raises(ValueError, match="no linear layer"):
        PixelClassifier(nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="sees 3 channels, got 1"):
        PixelClassifier(Answer())(torch.zeros(1, 1, 4, 4))


@pytest.mark.skipif(not (SHARED / "cifar10_resnets").is_dir(), reason="published weights are not here")
def test_published_weights_classify_cifar10() -> None:
    classifier = PixelClassifier(CIFARResNet(20), str(SHARED / "cifar10_resnets" / "resnet20.safetensors"))
    x, labels = held_out_images(every=20)
    with torch.no_grad():
        accuracy = (classifier(x).argmax(1) == labels).float().mean()
    # Published 91.7 %; these are JPEG copies, of which a thousand gave 80.9 %.
    assert accuracy > 0.75, accuracy
