"""A tiny random CLIP, and a Stable Diffusion pipeline around its text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from tag_lightning.networks import image_autoencoder

WIDTH = 8
_PART = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2}


def write_clip(folder: Path) -> None:
    """Save a random CLIP of 12x12 images, whose tokenizer knows the letters of a few words."""
    transformers = pytest.importorskip("transformers")
    letters = [*"abcdeor", *(f"{letter}</w>" for letter in "abcdeor"), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = {**_PART, "vocab_size": len(letters), "bos_token_id": 14, "eos_token_id": 15, "max_position_embeddings": 12}
    vision = {**_PART, "image_size": 12, "patch_size": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
        transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)
    tokenizer.save_pretrained(folder)


def tiny_stable_diffusion(clip: Path) -> Any:
    """Stable Diffusion's pipeline of 16x16 images with random networks and the text encoder of ``write_clip``."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
        )
        vae = image_autoencoder(widths=(8, 8), norm_num_groups=4)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
        text_encoder=transformers.CLIPTextModel.from_pretrained(clip),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(clip),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
