"""Two processes draw an arm as one does, and fail together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import DeviceNoiseSpace
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    Guidance,
    ImageSpace,
    LinearSchedule,
    Predict,
    Sampler,
    Step,
)
from tag_lightning.evaluation import Arm, ArmSampler, FailedArmError, SamplingTask
from tag_lightning.evaluation.chunk_store import ChunkStore
from tag_lightning.guidance import DPS, Condition, Corruption
from tag_lightning.metrics import FID, SampleMetric

SHAPE = (1, 2, 2)


class BareData:
    """Data of a shape alone, without test samples."""

    sample_shape = SHAPE

    def table(self, split: str) -> list[Any]:
        return []


class HalfNetwork(nn.Module):
    """Predicts half of what it sees."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return 0.5 * x


class ConvolvedNetwork(nn.Module):
    """Two convolutions with the same weights on every process.

    Args:
        factor: Multiplies a single weight, which only one process has if they are spread.
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for weights in self.requires_grad_(False).parameters():
            weights.normal_(0, 0.3, generator=generator)
        self.widen.weight[-1, 0, 0, 0] *= factor

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.narrow(self.widen(x).tanh())


class BareTask(SamplingTask):
    """Images, measured by their distance to others in their pixels."""

    sample_shape = SHAPE

    def default_metrics(self) -> list[SampleMetric]:
        return [FID("pixels"), FID("pixels", "fid_first", first=3)]

    def space(self, indices: Any, device: torch.device) -> ImageSpace:
        return ImageSpace(SHAPE, indices, device)


class DeviceNoiseTask(BareTask):
    """Images with the noise of an accelerator."""

    def space(self, indices: Any, device: torch.device) -> ImageSpace:
        return DeviceNoiseSpace(SHAPE, indices, device)


class Poison(Guidance):
    """Makes single samples NaN, each from a timestep on.

    Args:
        timesteps: By global index.
    """

    def __init__(self, timesteps: dict[int, int]) -> None:
        super().__init__()
        self.timesteps = timesteps

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        lost = [self.timesteps.get(index, -1) >= step.timestep for index in step.space.indices]
        return x.masked_fill(torch.tensor(lost).reshape(-1, 1, 1, 1), torch.nan)


# Six samples in chunks of two: the second chunk is that of the second process.
ARMS = {
    "sound": Arm(),
    "one process": Arm([Poison({3: 14})]),
    "both processes": Arm([Poison({2: 9, 4: 19, 5: 19})]),
    "last": Arm([Poison({})]),
}


def outcomes(rank: int, world_size: int) -> dict[str, Any]:
    """The error of each arm, or its samples and distances; without a chunk for the second process as the last one."""
    task = BareTask().for_data(BareData()).for_samples(6)
    real = [SimpleNamespace(x=torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0)))]
    shared: dict[str, Any] = {"num_steps": 4, "chunk_size": 2, "rank": rank, "world_size": world_size}
    sampler = ArmSampler(Denoiser(HalfNetwork(), LinearSchedule(20), "epsilon"), task, progress=False, **shared)
    sampler.prepare(real)
    found: dict[str, Any] = {}
    for name, arm in ARMS.items():
        try:
            result = sampler.draw(name, arm)
            found[name] = result.samples
            found[f"{name}, distances"] = torch.tensor([result.figures["fid"], result.figures["fid_first"]])
        except FailedArmError as error:
            found[name] = str(error)
    idle = ArmSampler(sampler.denoiser, task.for_samples(2), progress=False, **shared)
    idle.prepare(real)
    figures = idle.draw("short", Arm()).figures
    assert "fid_first" not in figures
    counted = DeviceNoiseTask().for_data(BareData()).for_samples(6)
    counting = ArmSampler(sampler.denoiser, counted, progress=False, **shared)
    counting.prepare(real)
    found["device noise"] = counting.draw("device noise", Arm([Corruption(0.1)])).samples
    return found | {"short, distances": torch.tensor([figures["fid"]])} | sharded_outcome(sampler)


def spread(network: ConvolvedNetwork, world_size: int) -> ConvolvedNetwork:
    """The network, its weights spread over the processes if there are several."""
    if world_size > 1:
        mesh = init_device_mesh("cpu", (world_size,))
        for module in (network.widen, network.narrow, network):
            fully_shard(module, mesh=mesh)
    return network


def sharded_outcome(sampler: ArmSampler) -> dict[str, Tensor]:
    """Samples of a network whose weights are spread over the processes, the first of which has one chunk more."""
    network = spread(ConvolvedNetwork(), sampler.world_size)
    sharing = replace(sampler, denoiser=Denoiser(network, LinearSchedule(20), "epsilon"))
    return {"sharded": sharing.draw("sharded", Arm()).samples}


def kept_outcome(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    """Samples drawn and drawn again from the same folder, and the chunks that each arm's drawing added to it."""
    found: dict[str, Any] = {}
    task = BareTask().for_data(BareData()).for_samples(6)
    for name, factor in {"first": 1.0, "again": 1.0, "other weights": 1.5}.items():
        network = spread(ConvolvedNetwork(factor), world_size)
        store = ChunkStore(folder)
        shared: dict[str, Any] = {"num_steps": 4, "chunk_size": 2, "rank": rank, "world_size": world_size}
        sampler = ArmSampler(
            Denoiser(network, LinearSchedule(20), "epsilon"), task, progress=False, store=store, **shared
        )
        sampler.prepare([SimpleNamespace(x=torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0)))])
        found[name] = sampler.draw(name, Arm()).samples
        if world_size > 1:
            dist.barrier()
        found[f"{name}, chunks"] = len(list(Path(folder).iterdir()))
        if world_size > 1:
            dist.barrier()
    return found | {"names": sorted(path.name for path in Path(folder).iterdir())}


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    found = outcomes(rank, 2) | {"kept": kept_outcome(rank, 2, f"{folder}/chunks")}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    # A fork spares the imports; nothing here differentiates, and tests run on one thread.
    mp.start_processes(run_rank, args=(str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_an_arm_that_fails_on_one_process_is_dropped_on_both_with_the_error_of_one(
    two_processes: list[dict[str, Any]],
) -> None:
    alone = outcomes(0, 1)
    for name, timestep in {"one process": 14, "both processes": 9}.items():
        assert alone[name].startswith(f"arm {name}: the denoiser returned NaN or infinity at timestep {timestep} for 1")
    for found in two_processes:
        for name, outcome in alone.items():
            if name.endswith("distances"):
                torch.testing.assert_close(found[name], outcome, rtol=1e-6, atol=0)
            else:
                same = torch.equal(found[name], outcome) if isinstance(outcome, Tensor) else found[name] == outcome
                assert same, name


def test_chunks_of_a_network_that_is_spread_over_processes_are_kept_and_taken_up_again(
    two_processes: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = kept_outcome(0, 1, str(tmp_path))
    for found in two_processes:
        kept = found["kept"]
        assert [kept[f"{name}, chunks"] for name in ("first", "again", "other weights")] == [3, 3, 6]
        assert all(torch.equal(kept[name], alone[name]) for name in ("first", "again", "other weights"))
        assert torch.equal(kept["again"], kept["first"])
        assert not torch.equal(kept["other weights"], kept["first"])


def test_one_process_takes_up_the_chunks_of_two(two_processes: list[dict[str, Any]], tmp_path: Path) -> None:
    """The fingerprint of a network that is spread is that of the whole one."""
    assert two_processes[0]["kept"]["names"] == kept_outcome(0, 1, str(tmp_path))["names"]


def draw_guided(rank: int, folder: str) -> None:
    """Samples of two processes of their own, guided through a whole network and through one that is spread."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/guided"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    whole, spread = ConvolvedNetwork(), ConvolvedNetwork()
    for module in (spread.widen, spread.narrow, spread):
        fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    guidance = [DPS(Condition(nn.Flatten(), torch.tensor([0, 3])), scale=2.0)]
    samples = [
        Sampler(Denoiser(network, LinearSchedule(20), "epsilon"), DDIM(), 5, guidance).sample(
            ImageSpace(SHAPE, [2 * rank, 2 * rank + 1]), seed=0
        )
        for network in (whole, spread)
    ]
    torch.save(samples, Path(folder) / f"guided{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_guidance_differentiates_through_a_network_that_is_spread_over_processes(tmp_path: Path) -> None:
    mp.spawn(draw_guided, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        whole, spread = torch.load(tmp_path / f"guided{rank}.pt")
        assert torch.equal(whole, spread)
