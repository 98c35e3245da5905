"""MEGNet: the symmetries of molecules, independence of padding, files of its own, and published accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.networks import MEGNetJudge
from tag_lightning.networks.megnet import MEGNet

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ELEMENTS = (1, 6, 7, 8, 9)


def random_network() -> MEGNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MEGNet().double().eval()


NETWORK = random_network()


def molecules(sizes: list[int], seed: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = width or max(sizes)
    mask = torch.arange(width) < torch.tensor(sizes)[:, None]
    x = torch.zeros(len(sizes), width, 8, dtype=torch.float64)
    for row, size in zip(x, sizes, strict=True):
        row[:size, :3] = 1.5 * torch.randn(size, 3, dtype=torch.float64, generator=generator)
        row[:size, 3:] = torch.eye(5, dtype=torch.float64)[torch.randint(5, (size,), generator=generator)]
    return x, mask


def write(path: Path, network: MEGNet, **metadata: str) -> str:
    """A file with the published names, as MEGNet's own would be."""
    weights = network.float().state_dict()
    tensors = {}
    for ours, theirs in network._names().items():
        turned = weights[ours] if weights[ours].ndim == 1 or "embedding" in ours else weights[ours].T
        tensors[theirs] = turned.contiguous()
    save_file(tensors, path, {"mean": "2.0", "std": "0.5", "is_intensive": "True"} | metadata)
    return str(path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 999))
def test_the_order_and_pose_of_the_atoms_do_not_matter(sizes: list[int], seed: int) -> None:
    x, mask = molecules(sizes, seed)
    expected = NETWORK(x, mask)
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator)).Q
    moved = torch.cat((x[..., :3] @ q + 5, x[..., 3:]), -1)
    torch.testing.assert_close(NETWORK(moved, mask), expected, rtol=0, atol=1e-9)
    order = torch.randperm(x.shape[1], generator=generator)
    torch.testing.assert_close(NETWORK(x[:, order], mask[:, order]), expected, rtol=0, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 999))
def test_neither_padding_nor_other_molecules_matter(sizes: list[int], seed: int) -> None:
    x, mask = molecules(sizes, seed, width=11)
    x[~mask] = 7.0
    alone = torch.cat([NETWORK(x[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(sizes)])
    torch.testing.assert_close(NETWORK(x, mask), alone, rtol=0, atol=1e-9)


def test_elements_and_distances_matter_and_gradients_are_finite() -> None:
    x, mask = molecules([1, 2, 6], 0)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(NETWORK(x, mask).sum(), x)
    assert bool(gradient.isfinite().all())
    assert float(gradient[2, :, :3].norm()) > 0
    other = x.detach().clone()
    other[..., 3:] = other[..., 3:].roll(1, -1)
    assert not torch.allclose(NETWORK(other, mask), NETWORK(x, mask))


def test_a_judge_reads_files_in_their_units(tmp_path: Path) -> None:
    plain = random_network()
    x, mask = molecules([3, 7], 1)
    x = x.float()
    expected = 2.0 + 0.5 * plain.float()(x, mask)
    files = {
        "gap": write(tmp_path / "gap.safetensors", plain),
        "alpha": write(tmp_path / "alpha.safetensors", plain, is_intensive="False"),
    }
    judge = MEGNetJudge(files)
    assert judge.properties == ("gap", "alpha")
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    torch.testing.assert_close(judge(x, mask), torch.stack((expected, expected * torch.tensor([3, 7])), 1))


def test_other_files_and_other_elements_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files is empty"):
        MEGNetJudge({})
    with pytest.raises(ValueError, match=r"nowhere\.safetensors is not a published MEGNet network"):
        MEGNetJudge({"alpha": str(tmp_path / "nowhere.safetensors")})
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors .*no tensor embedding_1\.embeddings"):
        MEGNetJudge({"alpha": str(tmp_path / "other.safetensors")})
    x, mask = molecules([3], 0)
    with pytest.raises(ValueError, match="one column for each of H, C, N, O, F, got 4"):
        NETWORK(x[..., :-1], mask)


@pytest.mark.skipif(not (DATA / "qm9_megnet").is_dir(), reason="needs the data beside the repository")
def test_the_published_networks_know_the_labels_of_the_test_split() -> None:
    with np.load(DATA / "qm9_test_edm.npz") as edm:
        rows = np.random.default_rng(1).permutation(len(edm["index"]))[:400]
        numbers, positions = torch.from_numpy(edm["charges"][rows]), torch.from_numpy(edm["positions"][rows])
        labels = {"alpha": edm["alpha"][rows], "cv": edm["Cv"][rows], "gap": edm["gap"][rows] * 27.2114}
    judge = MEGNetJudge({name: str(DATA / "qm9_megnet" / f"{name}.safetensors") for name in labels})
    x = MoleculeEncoding(ELEMENTS, 8.0).encode(numbers.to(torch.uint8), positions)
    with torch.no_grad():
        judged = torch.cat([judge(a, b) for a, b in zip(x.split(100), (numbers > 0).split(100), strict=True)])
    errors = dict(zip(labels, (judged - torch.tensor(np.stack(list(labels.values()), 1))).abs().mean(0), strict=True))
    # bohr^3, cal/(mol K), eV
    assert errors["alpha"] < 0.1
    assert errors["cv"] < 0.05
    assert errors["gap"] < 0.1
