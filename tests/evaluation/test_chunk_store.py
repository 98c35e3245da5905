"""Chunks come back bit for bit, and only to the evaluation they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, LinearSchedule
from tag_lightning.evaluation import Arm, ArmResult, ArmSampler, SamplingTask
from tag_lightning.evaluation.chunk_store import ChunkStore
from tag_lightning.guidance import Corruption
from tag_lightning.metrics import SampleMetric

SHAPE = (1, 4, 4)
CALLS: list[int] = []


class ScaledNetwork(nn.Module):
    """Predicts noise, and counts its calls elsewhere."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        CALLS.append(len(x))
        return self.scale * x


class Brightness(SampleMetric):
    """A row of float32 and one of bools; ``above`` is a setting."""

    def __init__(self, above: float = 0.0) -> None:
        self.above = above

    @property
    def columns(self) -> dict[str, int]:
        return {"mean": 1, "bright": 1}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        mean = x.flatten(1).mean(1)
        return {"mean": mean[:, None], "bright": mean > self.above}

    def summary(self, rows: Any) -> dict[str, float]:
        return {name: float(rows[name].mean()) for name in self.columns}


class PlainTask(SamplingTask):
    """Images without conditions; their targets are in the data."""

    sample_shape = SHAPE

    def space(self, indices: Sequence[int], device: torch.device) -> ImageSpace:
        return ImageSpace(SHAPE, indices, device)

    def attributes(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        return {"label": self.data._labels[list(indices)]}


def draw(folder: Path | None, arm: Arm | None = None, above: float = 0.0, label: int = 0, **changed: Any) -> ArmResult:
    """Ten samples in chunks of four."""
    data = SimpleNamespace(sample_shape=SHAPE, _labels=torch.full((10,), label))
    task = PlainTask([Brightness(above)]).for_data(data).for_samples(10, changed.pop("seed", 0))
    settings = {"num_steps": 3, "chunk_size": 4, "solver": DDIM(), "num_kept": 5, **changed}
    denoiser = Denoiser(ScaledNetwork(settings.pop("scale", 0.5)), LinearSchedule(20), "epsilon")
    store = None if folder is None else ChunkStore(folder)
    CALLS.clear()
    return ArmSampler(denoiser, task, progress=False, store=store, **settings).draw(
        "arm", arm or Arm([Corruption(0.1)])
    )


def _same(first: ArmResult, second: ArmResult) -> bool:
    equal = [torch.equal(first.rows[name], second.rows[name]) for name in first.rows if name != "seconds"]
    return all(equal) and torch.equal(first.samples, second.samples)


def test_the_second_time_nothing_is_drawn_and_every_bit_is_the_same(tmp_path: Path) -> None:
    plain, first = draw(None), draw(tmp_path)
    assert len(CALLS) == 9
    second = draw(tmp_path)
    assert not CALLS
    assert _same(plain, first)
    assert _same(first, second)
    assert torch.equal(first.rows["seconds"], second.rows["seconds"])
    assert len(second.samples) == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": 0.25},
        {"seed": 1},
        {"num_steps": 4},
        {"num_kept": 6},
        {"chunk_size": 5},
        {"solver": DDIM(0.0)},
        {"arm": Arm([Corruption(0.2)])},
        {"arm": Arm([Corruption(0.1), Corruption(0.1)])},
        {"arm": Arm([Corruption(0.1)], recurrence=2)},
        {"precision": "bf16-mixed"},
        {"compile": True},
        {"above": 0.5},
        {"label": 1},
    ],
    # Without the addresses of objects, which differ between processes.
    ids=lambda changed: next(iter(changed)),
)
def test_other_settings_draw_anew(changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward: forward)
    draw(tmp_path)
    found = draw(tmp_path, **changed)
    assert len(CALLS) > 5
    assert _same(found, draw(None, **changed))


def test_an_arm_that_cannot_be_described_is_drawn_every_time(tmp_path: Path) -> None:
    arm = Arm([Corruption(0.1)])
    arm.guidance[0].note = lambda: None  # type: ignore[attr-defined]
    for _ in range(2):
        draw(tmp_path, arm)
        assert len(CALLS) == 9
    assert not list(tmp_path.iterdir())


def test_processes_of_any_number_share_the_chunks(tmp_path: Path) -> None:
    draw(tmp_path, rank=1, world_size=2)
    assert len(CALLS) == 3
    draw(tmp_path)
    assert len(CALLS) == 6


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _replace(path: Path) -> None:
    """By another chunk, as a copy under the wrong name would be."""
    other = next(each for each in path.parent.iterdir() if each != path)
    path.write_bytes(other.read_bytes())


def _foreign(path: Path) -> None:
    path.write_text("not tensors")


@pytest.mark.parametrize("damage", [_cut, _flip, _replace, _foreign])
def test_a_damaged_chunk_is_drawn_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    first = draw(tmp_path)
    paths = sorted(tmp_path.iterdir())
    damage(paths[0])
    assert _same(first, draw(tmp_path))
    assert len(CALLS) == 3
    assert sorted(tmp_path.iterdir()) == paths


def test_tensors_of_every_kind_come_back(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "new")
    tensors = {
        "nan": torch.tensor([[torch.nan, -0.0, torch.inf]]),
        "bool": torch.tensor([True, False]),
        "double": torch.rand(3, 2, dtype=torch.float64).T,
        "none": torch.zeros(0, 3),
    }
    store.write("key", tensors)
    found = store.read("key")
    assert found is not None
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name].nan_to_num(7), values.nan_to_num(7))
    assert store.read("other") is None
    store.remove()
    assert not store.folder.exists()
