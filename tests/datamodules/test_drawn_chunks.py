"""Caches of drawn samples: one for each kind of device, by the weights in whatever precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import TinyNetworks
from torch import nn

from tag_lightning.content_digest import content_key, weights_bytes, weights_key
from tag_lightning.datamodules.drawn_chunks import chunk_folder, image_denoiser

CPU = torch.device("cpu")


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_a_gpu_has_a_cache_of_its_own_and_that_of_the_cpu_stays(tmp_path: Path) -> None:
    weights = [values.numpy().tobytes() for values in network().state_dict().values()]
    on_cpu, on_gpu, second = (
        chunk_folder(tmp_path, "s", torch.device(d), network()) for d in ("cpu", "cuda", "cuda:1")
    )
    assert on_cpu == tmp_path / content_key("s", *weights)[:16]
    assert on_gpu != on_cpu
    assert second == on_gpu


def test_weights_of_half_precision_have_a_key() -> None:
    half = network().to(torch.bfloat16)
    assert chunk_folder(Path(), "s", CPU, half) != chunk_folder(Path(), "s", CPU, network())
    assert weights_key(half) != weights_key(network())
    assert len(weights_bytes(half)["0.weight"]) == 2 * 6


def test_a_network_without_a_schedule_is_no_denoiser(tiny: TinyNetworks) -> None:
    with pytest.raises(
        ValueError, match="has no noise schedule: it is not a denoiser of this package; for a diffusers"
    ):
        image_denoiser(str(tiny.root / "judge"), None)
