"""Features of images in which Frechet distances are measured."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from tag_lightning.evaluation_mode import evaluating
from tag_lightning.pretrained import load_pretrained

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"


FeatureChoice = Literal["auto", "judge", "inception", "pixels"] | str
"""``auto`` is Inception if its weights are found, else the judge. Any other text names a network with features."""


class FeatureExtractor(Protocol):
    """Anything that turns images into feature rows.

    Attributes:
        name: Its name in results; values of different extractors must not be compared.
        num_features: D.
    """

    name: str
    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features ``[B, D]`` float64 of images ``[B, C, H, W]`` in [-1, 1]."""
        ...


class JudgeFeatures:
    """The features of a network that judges samples and never guides them, taken in evaluation mode.

    Args:
        network: A module with ``features(x) -> [B, D]`` and ``num_features``, such as ``ImageClassifier``.
        name: Its name in results.

    Raises:
        TypeError: If the network lacks one of the two.
    """

    def __init__(self, network: Any, name: str = "judge") -> None:
        missing = [name for name in ("features", "num_features") if not hasattr(network, name)]
        if missing:
            raise TypeError(
                f"{type(network).__name__} has no {' and no '.join(missing)}; "
                "a judge needs features(x) -> [B, D] and num_features"
            )
        self.network = network
        self.name = name
        self.num_features = int(network.num_features)

    def __call__(self, images: Tensor) -> Tensor:
        """Features ``[B, D]`` float64 of images ``[B, C, H, W]`` in [-1, 1], on the network's device."""
        with torch.no_grad(), evaluating(self.network):
            return self.network.features(images).double()


class PixelFeatures:
    """The pixels themselves.

    Args:
        sample_shape: ``(C, H, W)``.
    """

    name = "pixels"

    def __init__(self, sample_shape: Sequence[int]) -> None:
        self.num_features = math.prod(sample_shape)

    def __call__(self, images: Tensor) -> Tensor:
        """``[B, C H W]`` float64 of images ``[B, C, H, W]``."""
        return images.flatten(1).double()


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of the Inception network of FID, as torch-fidelity runs it (bilinear to 299x299).

    Weights are never downloaded.

    Args:
        weights_path: The weight file; None takes the one ``find_inception_weights`` finds.

    Raises:
        FileNotFoundError: If the weight file is missing; names it and its place.
        ValueError: If the file holds more than tensors, or is damaged. Nothing in it is executed.
    """

    name = "inception"
    num_features = 2048

    def __init__(self, weights_path: str | Path | None = None) -> None:
        super().__init__()
        path = Path(weights_path) if weights_path is not None else find_inception_weights()
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"no Inception weights at {path or _inception_folder() / INCEPTION_FILE}: fetch {INCEPTION_URL} "
                f"and put it into {_inception_folder()} (set TORCH_HOME to move that folder), pass weights_path=..., "
                "or use the judge's features instead"
            )
        # torch-fidelity unpickles anything, so only a file that has passed the safe loader reaches it.
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise ValueError(
                f"{path} is damaged or holds more than tensors, so it was not loaded; fetch {INCEPTION_URL} again"
            ) from error
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))

    def train(self, mode: bool = True) -> InceptionFeatures:
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features ``[B, 2048]`` float64 of images ``[B, C, H, W]`` in [-1, 1], RGB, or grey with C = 1.

        Raises:
            ValueError: If C is neither 1 nor 3, or a value is NaN or infinite.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"Inception sees images [B, 3, H, W] or grey [B, 1, H, W], got {list(images.shape)}")
        (features,) = self.network(to_uint8(images).expand(-1, 3, -1, -1))
        return features.double()


def find_inception_weights() -> Path | None:
    """The Inception weight file in torch's hub folder, None if it is not there.

    The folder is ``$TORCH_HOME/hub/checkpoints``, by default ``~/.cache/torch/hub/checkpoints``.
    """
    path = _inception_folder() / INCEPTION_FILE
    return path if path.is_file() else None


def feature_extractor(
    choice: FeatureChoice, judge: nn.Module | None, sample_shape: Sequence[int]
) -> FeatureExtractor | None:
    """The extractor of that choice; None if it is ``auto`` and neither Inception's weights nor a judge is there.

    Raises:
        ValueError: If the judge's features are asked for without a judge.
        FileNotFoundError: If Inception is asked for and its weights are missing, or no network has the name.
        TypeError: If the named network has no features.
    """
    if choice == "inception" or (choice == "auto" and find_inception_weights() is not None):
        return InceptionFeatures()
    if choice == "pixels":
        return PixelFeatures(sample_shape)
    if choice not in ("auto", "judge"):
        return JudgeFeatures(load_pretrained(choice).network, choice)
    if judge is not None:
        return JudgeFeatures(judge)
    if choice == "judge":
        raise ValueError(
            "features is judge, but the task has no judge; set judge, or take features auto, pixels or a network"
        )
    return None


def to_uint8(images: Tensor) -> Tensor:
    """Images with values in [-1, 1] as bytes 0..255, rounded to nearest; values outside are clipped.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images contain NaN or infinity; lower the guidance scale or strength, or check the weights")
    return ((images.clamp(-1, 1).float() + 1) * 127.5).round().to(torch.uint8)


def _inception_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
