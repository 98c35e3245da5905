"""Learned perceptual distance between restored images and their originals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchmetrics.utilities import rank_zero_warn

from tag_lightning.metrics.restoration import RestorationMetric

# Weight file of torchvision, and the smallest image that the network can take.
_BACKBONES = {
    "alex": ("AlexNet_Weights", 32),
    "vgg": ("VGG16_Weights", 16),
    "squeeze": ("SqueezeNet1_1_Weights", 32),
}


class LPIPS(RestorationMetric):
    """Learned perceptual distance ``lpips`` (Zhang et al. 2018, arXiv 1801.03924), by torchmetrics.

    The weights of torchvision's backbone are never downloaded: without them the metric is left out, and a warning
    names the file. The same holds for images that the network cannot take. Grey images are shown as RGB.

    Args:
        backbone: The network whose features are compared.

    Raises:
        ValueError: If ``backbone`` is unknown.
    """

    name = "lpips"
    _network: LearnedPerceptualImagePatchSimilarity | None = None

    def __init__(self, backbone: Literal["alex", "vgg", "squeeze"] = "alex") -> None:
        if backbone not in _BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(_BACKBONES)}, got {backbone!r}")
        self.backbone = backbone

    def for_task(self, task: Any) -> Self:
        bound = super().for_task(task)
        path, (_, least) = lpips_weights(self.backbone), _BACKBONES[self.backbone]
        if min(task.sample_shape[1:]) < least:
            rank_zero_warn(f"lpips is left out: its network needs images of {least}x{least} or more")
        elif not path.is_file():
            rank_zero_warn(f"lpips is left out: no weights at {path}")
        else:
            # Both kinds of weights are read from files: torchvision's and, inside the package, torchmetrics' own.
            bound._network = LearnedPerceptualImagePatchSimilarity(self.backbone)
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {} if self._network is None else super().columns

    @property
    def networks(self) -> list[nn.Module]:
        return [] if self._network is None else [self._network.net]

    def compared(self, restored: Tensor, originals: Tensor) -> Tensor:
        assert self._network is not None  # a metric without columns is left out
        pairs = (images.expand(-1, 3, -1, -1) for images in (restored, originals))
        return self._network.net(*pairs).reshape(len(restored))


def lpips_weights(backbone: str) -> Path:
    """The file in torch's hub folder that torchvision keeps the weights of a backbone in, there or not."""
    import torchvision.models

    url = getattr(torchvision.models, _BACKBONES[backbone][0]).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
