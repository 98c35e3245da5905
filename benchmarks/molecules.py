"""Costs of molecules: the dense EGNN beside its edge-list form, and the loader beside the training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.edge_list_egnn import EdgeListEGNN
from benchmarks.timing import Ratio, interleaved, over, seconds_of
from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.datamodules.loader import BatchIndices
from tag_lightning.diffusion import PolynomialSchedule, centred
from tag_lightning.modules import DiffusionModule
from tag_lightning.networks import EGNNDenoiser

_BATCH, _ATOMS = 64, 29
# Sizes within a batch of QM9, whose loader puts molecules of similar sizes together.
_SIMILAR = (17, 19)
# Training molecules of QM9 by their number of atoms.
_QM9_SIZES = {
    3: 1, 4: 4, 5: 5, 6: 9, 7: 16, 8: 49, 9: 124, 10: 362, 11: 807, 12: 1689, 13: 3060, 14: 5136, 15: 7796, 16: 10644,
    17: 13025, 18: 13364, 19: 13832, 20: 9482, 21: 9970, 22: 3393, 23: 4848, 24: 539, 25: 1506, 26: 48, 27: 266, 29: 25,
}  # fmt: skip


def egnn(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Forward and backward pass at the published width, batch 64 of 29 atoms: edge lists over dense pairs.

    On a CPU three of the nine blocks, which are all alike, so that the edge lists fit in memory.
    """
    passes = _passes(device, quick, [_ATOMS] * (4 if quick else _BATCH))
    kept = {name: _kept_for_backward(job) for name, job in passes.items()}
    gigabytes = f"{kept['edges'] / 1e9:.2f} / {kept['dense'] / 1e9:.2f} GB"
    return [
        _dense_over_edges(passes, device, repeats, f"{_ATOMS} atoms"),
        Ratio(
            f"memory kept for its backward pass: edge lists / dense ({gigabytes})",
            [kept["edges"] / kept["dense"]],
            None,
        ),
    ]


def similar_sizes(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """As ``egnn``, for a batch of molecules of similar sizes, in which edge lists spare the padding."""
    least, most = _SIMILAR
    sizes = [least + i % (most - least + 1) for i in range(4 if quick else _BATCH)]
    return [_dense_over_edges(_passes(device, quick, sizes), device, repeats, f"{least} to {most} atoms")]


def qm9_batches(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """As ``egnn`` at QM9's sizes: the dense form in the loader's batches over EDM's form in batches of any sizes."""
    sizes = torch.tensor(list(_QM9_SIZES)).repeat_interleave(torch.tensor(list(_QM9_SIZES.values())))
    batch, count = (4, 1) if quick else (_BATCH, 6)
    # The same molecules for both.
    sizes = sizes[torch.randperm(len(sizes), generator=torch.Generator().manual_seed(0))[: batch * count]]
    drawn = {
        name: [sizes[rows].tolist() for rows in BatchIndices(len(sizes), batch, True, sizes=by)]
        for name, by in (("dense", sizes), ("padded edges", None))
    }
    jobs = {name: [_passes(device, quick, some)[name] for some in batches] for name, batches in drawn.items()}
    measured = {name: seconds_of(partial(_all, some), device) for name, some in jobs.items()}
    seconds = interleaved(measured, repeats, "EGNN, QM9's sizes")
    passes = f"EGNN forward and backward, {_blocks(device)} blocks of 256, {count} batches of QM9's sizes"
    what = f"{passes}: dense, similar sizes together / all pairs as edges, as EDM's"
    return [Ratio(what, over(seconds["dense"], seconds["padded edges"]), 0.5)]


def compiled(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Training pass of the small QM9 denoiser in bf16, batch 64 of similar sizes: compiled over plain."""
    width, blocks, batch = (8, 1, 4) if quick else (128, 7, _BATCH)
    network = EGNNDenoiser(width=width, num_blocks=blocks, longest=2.5, num_bases=16, shared_messages=True).to(device)
    forwards = {
        "plain": network.forward,
        "compiled": torch.compile(network.forward, backend="eager" if quick else "inductor"),
    }
    least, most = _SIMILAR
    masks = [torch.ones(batch, size, dtype=torch.bool, device=device) for size in range(least, most + 1)]

    def passes(forward: Callable[..., Tensor]) -> None:
        for mask in masks:
            x, timesteps = torch.randn(*mask.shape, 8, device=device), torch.randint(1000, (batch,), device=device)
            network.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16):
                output = forward(x, timesteps, mask=mask)
            output.float().square().mean().backward()

    jobs = {name: seconds_of(partial(passes, forward), device) for name, forward in forwards.items()}
    seconds = interleaved(jobs, repeats, "compiled training")
    what = (
        f"training pass of the small QM9 denoiser in bf16, batch {batch} of {least} to {most} atoms: compiled / plain"
    )
    return [Ratio(what, over(seconds["compiled"], seconds["plain"]), None)]


def _all(jobs: Sequence[Callable[[], None]]) -> None:
    for job in jobs:
        job()


def _passes(device: torch.device, quick: bool, sizes: Sequence[int]) -> dict[str, Callable[[], None]]:
    """Forward and backward pass of every form of one network, for a batch of molecules of these sizes."""
    dense = EGNNDenoiser(width=16 if quick else 256, num_blocks=1 if quick else _blocks(device)).to(device)
    mask = torch.arange(max(sizes), device=device) < torch.tensor(sizes, device=device)[:, None]
    x = centred(torch.randn(*mask.shape, 8, device=device), mask)
    timesteps = torch.randint(1000, (len(sizes),), device=device)
    edges = {"edges": EdgeListEGNN(dense), "padded edges": EdgeListEGNN(dense, padded=True)}
    networks: dict[str, nn.Module] = {"dense": dense, **edges}
    return {name: partial(_pass, network, x, timesteps, mask) for name, network in networks.items()}


def _dense_over_edges(passes: dict[str, Callable[[], None]], device: torch.device, repeats: int, atoms: str) -> Ratio:
    jobs = {name: seconds_of(job, device) for name, job in passes.items()}
    seconds = interleaved(jobs, repeats, f"EGNN, {atoms}")
    what = f"EGNN forward and backward, {_blocks(device)} blocks of 256, batch {_BATCH} of {atoms}: dense / edge lists"
    return Ratio(what, over(seconds["dense"], seconds["edges"]), 0.5)


def _blocks(device: torch.device) -> int:
    return 9 if device.type == "cuda" else 3


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
