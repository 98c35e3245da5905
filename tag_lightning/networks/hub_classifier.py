"""Image classifiers of the Hugging Face Hub as guides and judges; needs ``transformers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tag_lightning.networks.pixel_classifier import PixelClassifier
from tag_lightning.tensor_file import reason, require_finite

_PREFIX = "hf://"


class HubClassifier(PixelClassifier):
    """An image classifier of ``transformers``, with the size and normalisation that are saved beside it.

    Args:
        source: ``hf://owner/name`` or ``hf://owner/name@revision``, downloaded once, or a folder of ``transformers``.
        groups: Ranges ``[first, end)`` of its classes, each of which counts as one class with the mean probability of
            the range; an ``end`` of None is behind the last class. None keeps all classes.

    Raises:
        ImportError: If ``transformers`` is not installed.
        ValueError: If the classifier does not exist, it does not resize to a fixed size, or a group is empty.
    """

    def __init__(self, source: str, groups: Sequence[tuple[int, int | None]] | None = None) -> None:
        network, processor = _loaded(source)
        require_finite(network.state_dict(), source)
        size, crop = dict(processor.size), None
        if getattr(processor, "do_center_crop", False):
            crop = processor.crop_size["height"]
        side = size.get("height", size.get("shortest_edge"))
        if side is None or size.get("width", side) != side:
            raise ValueError(f"{source} does not resize images to squares of a fixed size, but to {size}")
        super().__init__(network, None, processor.image_mean, processor.image_std, side, crop)
        self.groups = None if groups is None else [range(*slice(*group).indices(self.num_classes)) for group in groups]
        if self.groups is not None:
            if not self.groups or not all(self.groups):
                raise ValueError(f"groups must be ranges of the {self.num_classes} classes of {source}, got {groups}")
            self.num_classes = len(self.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``[B, K]``, those of ``groups`` if given, of images ``x [B, C, H, W]`` in [-1, 1]."""
        logits = super().forward(x)
        if self.groups is None:
            return logits
        likelihoods = logits.log_softmax(1)
        means = [likelihoods[:, group.start : group.stop].exp().mean(1) for group in self.groups]
        return torch.stack(means, 1).clamp(min=torch.finfo(logits.dtype).tiny).log()


def _loaded(source: str) -> tuple[Any, Any]:
    """The classifier and its image processor."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "classifiers of Hugging Face need transformers; install it with: pip install transformers"
        ) from error
    name, _, revision = source.removeprefix(_PREFIX).partition("@")
    given = {"revision": revision} if revision else {}
    try:
        network = transformers.AutoModelForImageClassification.from_pretrained(name, **given)
        return network, transformers.AutoImageProcessor.from_pretrained(name, **given)
    except Exception as error:  # transformers raises OSError, ValueError and others, by what is wrong
        raise ValueError(
            f"cannot load an image classifier from {source}: {reason(error)}; on a machine with a network, "
            f"hf download {name} --local-dir models/{name.rpartition('/')[2]}, and give that folder instead"
        ) from error
