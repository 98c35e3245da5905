"""Costs of molecules: the dense EGNN beside its edge-list form, and the loader beside the training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.edge_list_egnn import EdgeListEGNN
from benchmarks.timing import Ratio, interleaved, over, seconds_of
from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.diffusion import PolynomialSchedule, centred
from tag_lightning.modules import DiffusionModule
from tag_lightning.networks import EGNNDenoiser

_BATCH, _ATOMS = 64, 29
# Sizes within a batch of QM9, whose loader puts molecules of similar sizes together.
_SIMILAR = (17, 19)


def egnn(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Forward and backward pass at the published width, batch 64 of 29 atoms: edge lists over dense pairs.

    On a CPU three of the nine blocks, which are all alike, so that the edge lists fit in memory.
    """
    blocks = 9 if device.type == "cuda" else 3
    dense = EGNNDenoiser(width=16 if quick else 256, num_blocks=1 if quick else blocks).to(device)
    batch = 4 if quick else _BATCH
    mask = torch.ones(batch, _ATOMS, dtype=torch.bool, device=device)
    x = centred(torch.randn(batch, _ATOMS, 8, device=device), mask)
    timesteps = torch.randint(1000, (batch,), device=device)
    networks: dict[str, nn.Module] = {"dense": dense, "edges": EdgeListEGNN(dense)}
    passes = {name: partial(_pass, network, x, timesteps, mask) for name, network in networks.items()}
    seconds = interleaved({name: seconds_of(job, device) for name, job in passes.items()}, repeats, "EGNN")
    kept = {name: _kept_for_backward(job) for name, job in passes.items()}
    what = f"EGNN forward and backward, {blocks} blocks of 256, batch {_BATCH} of {_ATOMS} atoms"
    gigabytes = f"{kept['edges'] / 1e9:.2f} / {kept['dense'] / 1e9:.2f} GB"
    return [
        Ratio(f"{what}: dense / edge lists", over(seconds["dense"], seconds["edges"]), 0.5),
        Ratio(
            f"memory kept for its backward pass: edge lists / dense ({gigabytes})",
            [kept["edges"] / kept["dense"]],
            None,
        ),
    ]


def similar_sizes(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """As ``egnn``, for a batch of molecules of similar sizes, in which edge lists spare the padding."""
    blocks = 9 if device.type == "cuda" else 3
    dense = EGNNDenoiser(width=16 if quick else 256, num_blocks=1 if quick else blocks).to(device)
    batch = 4 if quick else _BATCH
    sizes = torch.linspace(*_SIMILAR, batch, device=device).round()
    mask = torch.arange(_SIMILAR[1], device=device) < sizes[:, None]
    x = centred(torch.randn(batch, _SIMILAR[1], 8, device=device), mask)
    timesteps = torch.randint(1000, (batch,), device=device)
    networks: dict[str, nn.Module] = {"dense": dense, "edges": EdgeListEGNN(dense)}
    jobs = {name: seconds_of(partial(_pass, one, x, timesteps, mask), device) for name, one in networks.items()}
    seconds = interleaved(jobs, repeats, "EGNN, similar sizes")
    what = f"EGNN forward and backward, {blocks} blocks of 256, batch {_BATCH} of {_SIMILAR[0]} to {_SIMILAR[1]} atoms"
    return [Ratio(f"{what}: dense / edge lists", over(seconds["dense"], seconds["edges"]), 0.5)]


def loader(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Batches from the loader over training steps of the small denoiser on them."""
    data = SmallMoleculesDataModule(max_heavy_atoms=3 if quick else 6, properties=(), batch_size=8 if quick else 64)
    data.setup("fit")
    network = EGNNDenoiser(width=80, num_blocks=6, longest=2.5).to(device)
    module = DiffusionModule(network, PolynomialSchedule()).to(device)
    batches = list(data.train_dataloader())
    on_device = [
        b._replace(x=b.x.to(device), inputs={k: v.to(device) for k, v in b.inputs.items()}) for b in batches[:4]
    ]

    def train() -> None:
        for batch in on_device:
            module._loss(batch, 0).backward()

    def load() -> None:
        for _ in data.train_dataloader():
            pass

    seconds = interleaved({"load": seconds_of(load, device), "train": seconds_of(train, device)}, repeats, "loader")
    per_batch = {"load": [s / len(batches) for s in seconds["load"]], "train": [s / 4 for s in seconds["train"]]}
    rates = " and ".join(f"{data.batch_size / min(per_batch[name]):,.0f}" for name in ("load", "train"))
    name = f"loading / training step of the small denoiser ({rates} molecules/s)"
    return [Ratio(name, over(per_batch["load"], per_batch["train"]), None)]


def _pass(network: nn.Module, x: Tensor, timesteps: Tensor, mask: Tensor) -> None:
    network.zero_grad(set_to_none=True)
    network(x, timesteps, mask=mask).square().mean().backward()


def _kept_for_backward(job: Callable[[], None]) -> int:
    """Bytes of the distinct tensors that autograd keeps between the passes, parameters left out."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        job()
    return sum(kept.values())
