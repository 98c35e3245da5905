"""Rewards by CLIP: a tiny random model, held to transformers' own preprocessing and outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_clip import write_clip
from torch import Tensor

from tag_lightning.networks import AestheticScore, CLIPScore, StyleReward


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random CLIP of 12x12 images, whose tokenizer knows the letters of a few words."""
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return str(folder)


def images(count: int = 3, size: int = 12) -> Tensor:
    return 2 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) - 1


def test_the_score_is_the_cosine_of_transformers(clip: str) -> None:
    import transformers

    model, tokenizer = transformers.CLIPModel.from_pretrained(clip), transformers.CLIPTokenizer.from_pretrained(clip)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    prompts = ["red bed", "a cab", "code"]
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, pixel_values=((images() + 1) / 2 - mean) / std).logits_per_image
    expected = logits / model.logit_scale.exp()
    torch.testing.assert_close(CLIPScore(clip, prompts)(images()), expected.diagonal())
    torch.testing.assert_close(CLIPScore(clip, prompts[1])(images()), expected[:, 1])


def test_every_reward_can_be_followed_from_images_of_any_size(clip: str, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 6), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    style = StyleReward(clip, -images(1))
    for reward in (CLIPScore(clip, "a bed"), AestheticScore(clip, str(tmp_path / "head.pth")), style):
        assert not any(parameter.requires_grad for parameter in reward.parameters())
        for size in (8, 12, 30):
            x = images(2, size).requires_grad_(True)
            value = reward(x)
            assert value.shape == (2,)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            moved = reward(x.detach() + 1e-2 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
            assert bool((moved > value).all())


def test_both_published_heads_are_layers_one_after_the_other(clip: str, tmp_path: Path) -> None:
    first, second = torch.nn.Linear(6, 4), torch.nn.Linear(4, 1)
    # Ten follows two by number, not by letters.
    layers = {2: first, 10: second}
    weights = {f"layers.{i}.{name}": value for i in layers for name, value in layers[i].state_dict().items()}
    torch.save(weights, tmp_path / "mlp.pth")
    torch.save(torch.nn.Linear(6, 1).state_dict(), tmp_path / "linear.pth")
    score = AestheticScore(clip, str(tmp_path / "mlp.pth"))
    torch.testing.assert_close(score(images()), second(first(score.embedded(images())))[:, 0])
    assert score.embedded(images()).norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert len(AestheticScore(clip, str(tmp_path / "linear.pth")).head) == 1
    torch.save(torch.nn.Linear(5, 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"has the weight \[1, 5\], expected a linear layer with bias on 6 numbers"):
        AestheticScore(clip, str(tmp_path / "other.pth"))
    torch.save(torch.nn.Linear(6, 2).state_dict(), tmp_path / "two.pth")
    with pytest.raises(ValueError, match="gives 2 numbers per image, expected one score"):
        AestheticScore(clip, str(tmp_path / "two.pth"))


def test_the_style_reward_is_the_distance_of_gram_matrices(clip: str) -> None:
    reference = images(1, 12)
    style = StyleReward(clip, reference, layer=2)
    states = style.model.vision_model(style.pixel_values(images()), output_hidden_states=True).hidden_states[2]
    for k, value in enumerate(style(images())):
        tokens = states[k, 1:].double()
        target = style.gram[0].double()
        assert float(value) == pytest.approx(
            -float((tokens.T @ tokens - target).square().sum().sqrt()), rel=1e-4, abs=1e-4
        )
    assert float(style(reference)) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match=r"layer must lie in 1 \.\. 4, the blocks of .*, got 5"):
        StyleReward(clip, reference, layer=5)


def test_what_does_not_fit_is_one_line(clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are 2 prompts for 3 images; give one, or one per image"):
        CLIPScore(clip, ["a", "b"])(images())
    with pytest.raises(ValueError, match="prompts is empty"):
        CLIPScore(clip, [])
    with pytest.raises(ValueError, match=r"CLIP sees RGB images \[B, 3, H, W\], got \[3, 1, 12, 12\]"):
        CLIPScore(clip, "a")(images()[:, :1])
    with pytest.raises(ValueError, match=f"cannot load a CLIP model from {tmp_path}"):
        CLIPScore(str(tmp_path), "a")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="need transformers; install it with: pip install transformers"):
        CLIPScore(clip, "a")
