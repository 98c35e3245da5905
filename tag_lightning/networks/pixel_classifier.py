"""Image classifiers that were trained elsewhere, as guides and judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from tag_lightning.tensor_file import load_weights, reason, require_finite


class PixelClassifier(nn.Module):
    """Any classifier of pixels in [0, 1], with its own normalisation, as a guide or judge of samples in [-1, 1].

    Takes the classifiers of torchvision and of Hugging Face, and any module that returns logits ``[B, K]`` or an output
    with ``logits``. It is frozen and stays in evaluation mode, since batch normalisation would couple samples.

    Args:
        network: Called with normalised images ``[B, C, H, W]``.
        weights: A file of weights to load into it, safetensors or ``torch.save``; None leaves those it has.
        mean: Mean of each channel that the network's normalisation subtracts; the default is ImageNet's.
        std: Standard deviation that it divides by.
        size: Height and width that images are resized to first, bilinearly; None leaves their size.
        crop: Height and width of the centre that the network is then given; None gives it all.

    Raises:
        ValueError: If ``mean`` and ``std`` differ in length, an entry of ``std`` is not positive, the network has no
            linear layer, or the weights are damaged, not finite or those of another network. Nothing in the file is
            executed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        weights: str | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        size: int | None = None,
        crop: int | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean and std need one number per channel, std above 0; got {list(mean)}, {list(std)}")
        linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise ValueError(f"{type(network).__name__} has no linear layer, so it is not a classifier with features")
        if weights is not None:
            _take_weights(network, Path(weights))
        self.network = network
        self.size, self.crop = size, crop
        self.num_features, self.num_classes = linear[-1].in_features, linear[-1].out_features
        self._head = (linear[-1],)  # in a tuple, so that it is not registered a second time
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> PixelClassifier:
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``[B, K]`` of images ``x [B, C, H, W]`` in [-1, 1]."""
        if x.shape[1] != len(self.mean):
            raise ValueError(f"{type(self.network).__name__} sees {len(self.mean)} channels, got {x.shape[1]}")
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        if self.crop is not None:
            x = center_crop(x, [self.crop, self.crop])
        output = self.network(((x + 1) / 2 - self.mean) / self.std)
        return output if isinstance(output, Tensor) else output.logits

    def features(self, x: Tensor) -> Tensor:
        """The input of the last linear layer, ``[B, D]``, for Frechet distances."""
        seen: list[Tensor] = []
        hook = self._head[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(x)
        finally:
            hook.remove()
        return seen[0].flatten(1)


class CIFARResNet(nn.Module):
    """The residual network for 32x32 images (He et al. 2016, arXiv 1512.03385, Sec. 4.2, option A).

    Weights are random; the published ones of 20, 32 and 56 layers (akamaster/pytorch_resnet_cifar10) have these names,
    and ``PixelClassifier`` loads them.

    Args:
        depth: Number of layers, ``6 n + 2``.
        num_classes: K.

    Raises:
        ValueError: If ``depth`` is not of that form.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2, such as 20, 32 or 56, got {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``[B, K]`` of normalised images ``x [B, 3, H, W]``."""
        h = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(h.mean((2, 3)))


class _BasicBlock(nn.Module):
    """Two convolutions; where the shape changes, the shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.stride = 2 if width_out != width_in else 1
        self.padding = (width_out - width_in) // 2
        self.conv1 = nn.Conv2d(width_in, width_out, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(h + shortcut)


def _stage(width_in: int, width_out: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        _BasicBlock(width_in, width_out), *(_BasicBlock(width_out, width_out) for _ in range(blocks - 1))
    )


def _take_weights(network: nn.Module, path: Path) -> None:
    """Load a file of weights, whose names may have DataParallel's prefix ``module.``."""
    if not path.is_file():
        raise ValueError(f"weights {path} do not exist; give the path of a safetensors or torch file")
    name = type(network).__name__
    try:
        weights = load_weights(path, f"file of weights for {name}")
        network.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"weights {path} cannot be loaded into {name}: {reason(error)}") from error
    require_finite(weights, path)
