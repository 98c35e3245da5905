"""Differentiable rewards of images by CLIP (Radford et al. 2021), for ``guidance.Reward``; needs ``transformers``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag_lightning.tensor_file import load_weights, reason, require_finite


class CLIPImages(nn.Module):
    """CLIP's view of images ``[B, 3, H, W]`` in [-1, 1]: resized, normalised, encoded; differentiable.

    Args:
        source: A folder of transformers' ``CLIPModel``, or its name on the Hub, such as
            ``openai/clip-vit-large-patch14``.

    Raises:
        ImportError: If ``transformers`` is not installed.
        ValueError: If the model does not exist.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: str) -> None:
        super().__init__()
        transformers = _transformers()
        self.source = source
        try:
            model = transformers.CLIPModel.from_pretrained(source, use_safetensors=True)
        except Exception as error:  # transformers raises OSError, ValueError and others, by what is wrong
            raise ValueError(f"cannot load a CLIP model from {source}: {reason(error)}") from error
        self.model = model.eval().requires_grad_(False)
        for name in ("mean", "std"):
            values = getattr(transformers.image_utils, f"OPENAI_CLIP_{name.upper()}")
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def pixel_values(self, x: Tensor) -> Tensor:
        """Images ``x [B, 3, H, W]`` in [-1, 1] as the model takes them, ``[B, 3, S, S]``.

        Raises:
            ValueError: If the images are not RGB.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"CLIP sees RGB images [B, 3, H, W], got {list(x.shape)}")
        size = self.model.config.vision_config.image_size
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        return ((x + 1) / 2 - self.mean) / self.std

    def embedded(self, x: Tensor) -> Tensor:
        """Embeddings of unit length, ``[B, D]``, of images ``x [B, 3, H, W]`` in [-1, 1]."""
        pooled = self.model.vision_model(pixel_values=self.pixel_values(x)).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=1)


class CLIPScore(CLIPImages):
    """Cosine similarity of images and prompts, in [-1, 1] (Hessel et al. 2021, arXiv 2104.08718, without its factor).

    Args:
        source: See ``CLIPImages``; its tokenizer lies in the same place.
        prompts: One prompt for all images, or one per image of the batch.

    Raises:
        ValueError: If ``prompts`` is empty.
    """

    text: Tensor

    def __init__(self, source: str, prompts: str | Sequence[str]) -> None:
        super().__init__(source)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise ValueError("prompts is empty; give one prompt for all images, or one per image")
        tokenizer = _transformers().CLIPTokenizer.from_pretrained(source)
        length = self.model.config.text_config.max_position_embeddings
        tokens = tokenizer(prompts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            pooled = self.model.text_model(**tokens).pooler_output
            self.register_buffer("text", F.normalize(self.model.text_projection(pooled), dim=1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B]`` for images ``x [B, 3, H, W]`` in [-1, 1].

        Raises:
            ValueError: If there are several prompts, and another number of images.
        """
        if len(self.text) not in (1, len(x)):
            raise ValueError(f"there are {len(self.text)} prompts for {len(x)} images; give one, or one per image")
        return (self.embedded(x) * self.text).sum(1)


class AestheticScore(CLIPImages):
    """LAION's aesthetic predictor: linear layers, without activations, on CLIP's embedding of unit length.

    Both published heads fit: the single layer of 2022 and the improved predictor's five, about 1 to 10, by
    ``openai/clip-vit-large-patch14``.

    Args:
        source: See ``CLIPImages``.
        head: File of the head's weights; its layers follow each other in the order of their numbers.

    Raises:
        ValueError: If the layers do not follow each other from the embedding to one number.
    """

    def __init__(self, source: str, head: str) -> None:
        super().__init__(source)
        weights = load_weights(Path(head), "head of an aesthetic predictor")
        require_finite(weights, head)
        names = sorted({name.rpartition(".")[0] for name in weights}, key=lambda name: [*map(int, _numbers(name))])
        widths = [self.model.config.projection_dim]
        layers = []
        for name in names:
            prefix = f"{name}." if name else ""
            weight, bias = weights.get(f"{prefix}weight"), weights.get(f"{prefix}bias")
            if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != widths[-1]:
                found = None if weight is None else list(weight.shape)
                raise ValueError(
                    f"{head}: layer {name or 'weight'} has the weight {found}, expected a linear layer with bias on "
                    f"{widths[-1]} numbers; the head must belong to {source}"
                )
            layer = nn.Linear(*weight.shape[::-1])
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers.append(layer)
            widths.append(len(weight))
        if widths[-1] != 1:
            raise ValueError(f"{head} gives {widths[-1]} numbers per image, expected one score")
        self.head = nn.Sequential(*layers).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[B]`` of images ``x [B, 3, H, W]`` in [-1, 1]."""
        return self.head(self.embedded(x))[:, 0]


class StyleReward(CLIPImages):
    """``-|G(x) - G(reference)|_F`` for the Gram matrix of CLIP's patch tokens (FreeDoM, arXiv 2303.09833; TFG).

    ``G = tokens^T tokens`` of the third transformer block, class token left out. The norm is FreeDoM's; its square is
    the energy that TFG's paper writes.

    Args:
        source: See ``CLIPImages``; ``openai/clip-vit-base-patch16`` is published.
        reference: Images ``[1 or B, 3, H, W]`` in [-1, 1] whose style is asked for.
        layer: The transformer block, counted from 1.

    Raises:
        ValueError: If the model has no such block.
    """

    gram: Tensor

    def __init__(self, source: str, reference: Tensor, layer: int = 3) -> None:
        super().__init__(source)
        blocks = self.model.config.vision_config.num_hidden_layers
        if not 1 <= layer <= blocks:
            raise ValueError(f"layer must lie in 1 .. {blocks}, the blocks of {source}, got {layer}")
        self.layer = layer
        with torch.no_grad():
            self.register_buffer("gram", self.gram_matrix(reference), persistent=False)

    def gram_matrix(self, x: Tensor) -> Tensor:
        """``[B, D, D]`` for images ``x [B, 3, H, W]`` in [-1, 1]."""
        pixels = self.pixel_values(x)
        states = self.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
        tokens = states[self.layer][:, 1:]
        return tokens.mT @ tokens

    def forward(self, x: Tensor) -> Tensor:
        """``[B]``, at most 0, for images ``x [B, 3, H, W]`` in [-1, 1]."""
        return -(self.gram_matrix(x) - self.gram).flatten(1).norm(dim=1)


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("rewards by CLIP need transformers; install it with: pip install transformers") from error
    return transformers
