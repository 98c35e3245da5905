"""PSNR, SSIM and LPIPS against formulas in float64 and torchmetrics' public classes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from tag_lightning.metrics import LPIPS, PSNR, SSIM, SampleMetric
from tag_lightning.metrics.perceptual_distance import lpips_weights


def images(size: int = 16, count: int = 5, seed: int = 0, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def task_of(originals: Tensor) -> SimpleNamespace:
    return SimpleNamespace(sample_shape=tuple(originals.shape[1:]), originals=lambda indices: originals[list(indices)])


def measured(metric: SampleMetric, restored: Tensor, originals: Tensor) -> dict[str, float]:
    bound = metric.for_task(task_of(originals))
    parts = [bound.rows(restored[i : i + 1], [i])[bound.name] for i in range(len(restored))]  # type: ignore[attr-defined]
    return bound.summary({bound.name: torch.cat(parts).double()})  # type: ignore[attr-defined]


def test_psnr_is_the_mean_of_the_images_own() -> None:
    originals, noise = images(), images(seed=1) * torch.tensor([0.01, 0.1, 0.2, 0.5, 0.3]).reshape(-1, 1, 1, 1)
    restored = (originals + noise).clamp(-1, 1)
    errors = ((restored - originals).double().numpy() ** 2).mean((1, 2, 3))
    assert measured(PSNR(), restored, originals)["psnr"] == pytest.approx(np.mean(10 * np.log10(4 / errors)), rel=1e-6)


def test_values_outside_the_range_are_clipped() -> None:
    originals = torch.ones(1, 3, 16, 16)
    assert measured(PSNR(), 3 * originals, originals)["psnr"] == float("inf")


def test_ssim_is_torchmetrics() -> None:
    originals = images()
    restored = (originals + 0.3 * images(seed=1)).clamp(-1, 1)
    expected = StructuralSimilarityIndexMeasure(data_range=2.0)
    expected.update(restored, originals)
    assert measured(SSIM(), restored, originals)["ssim"] == pytest.approx(float(expected.compute()), rel=1e-5)
    assert measured(SSIM(), originals, originals)["ssim"] == pytest.approx(1)
    assert SSIM().for_task(task_of(images(8))).columns == {}, "smaller than the window"


@pytest.fixture
def squeezenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights where torchvision keeps those of SqueezeNet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = lpips_weights("squeeze")
    path.parent.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_torchmetrics(channels: int, squeezenet: Path) -> None:
    originals, restored = images(32, 3, channels=channels), images(32, 3, 1, channels)
    expected = LearnedPerceptualImagePatchSimilarity("squeeze")
    expected.update(*(x.expand(-1, 3, -1, -1) for x in (restored, originals)))
    with torch.no_grad():
        found = measured(LPIPS("squeeze"), restored, originals)["lpips"]
        assert found == pytest.approx(float(expected.compute()), rel=1e-4)
        assert found > 0
        assert measured(LPIPS("squeeze"), originals, originals)["lpips"] == pytest.approx(0, abs=1e-9)


def test_lpips_without_weights_or_with_small_images_is_left_out_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match=r"lpips is left out: no weights at .*alexnet"):
        assert LPIPS().for_task(task_of(images(32))).columns == {}
    with pytest.warns(UserWarning, match="needs images of 32x32 or more"):
        assert LPIPS().for_task(task_of(images(16))).columns == {}
    with pytest.raises(ValueError, match="backbone must be one of alex, vgg, squeeze"):
        LPIPS("resnet")  # type: ignore[arg-type]
