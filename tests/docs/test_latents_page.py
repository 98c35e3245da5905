"""The code that docs/latents.md shows: the shipped latent networks, rewards, and negative prompts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_clip import tiny_stable_diffusion, write_clip

from tag_lightning.pretrained import load_pretrained

PAGE = Path(__file__).parents[2] / "docs/latents.md"
SCRIPTS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def names_of(script: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(script, names)
    return names


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


def test_guided_latents_are_decoded_to_the_digit_asked_for() -> None:
    names = names_of(SCRIPTS[0])
    assert names["latents"].shape == (4, 4, 8, 8)
    assert names["images"].shape == (4, 3, 16, 16)
    assert names["images"].abs().max() <= 1
    guide = load_pretrained("digits/guide").network
    guided = guide(names["images"]).log_softmax(1)[:, 3]
    unguided = names_of(SCRIPTS[0].replace("[tag, DPS(threes, scale=0.5)]", "[]"))["images"]
    assert float(guided.mean()) > float(guide(unguided).log_softmax(1)[:, 3].mean()) + 1


def test_a_reward_of_the_prompt_is_followed_in_the_latents_of_stable_diffusion(clip: Path) -> None:
    assert "DDIM(), 50," in SCRIPTS[1]
    names, pipeline = names_of(SCRIPTS[1].replace("DDIM(), 50,", "DDIM(), 10,")), tiny_stable_diffusion(clip)
    rewarded, score = names["rewarded"], names["CLIPScore"](str(clip), "a red bed")
    plain, followed = (rewarded(pipeline, "a red bed", str(clip), scale=scale) for scale in (0.0, 0.05))
    assert plain.shape == (1, 3, 16, 16)
    assert float(score(followed)) > float(score(plain)) + 0.01


def test_a_negative_prompt_changes_an_image_of_one_step(clip: Path) -> None:
    without, pipeline = names_of(SCRIPTS[2])["without"], tiny_stable_diffusion(clip)
    images = []
    for scale in (0.0, 0.5, 0.0):
        torch.manual_seed(0)
        images.append(np.array(without(pipeline, "a red bed", "a cab", scale=scale)))
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])
