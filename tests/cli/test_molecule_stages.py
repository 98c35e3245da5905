"""The configurations of molecules end to end, stage after stage, on a few molecules with small networks."""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from edm_reference import edm_weights
from tiny_qm9 import write_qm9
from tiny_runs import TASK

from tag_lightning.cli import main
from tag_lightning.pretrained import load_pretrained

NETWORK = "--model.init_args.network.init_args"
SMALL = [f"{NETWORK}.width=8", f"{NETWORK}.num_layers=1"]
SMALL_DENOISER = [f"{NETWORK}.width=8", f"{NETWORK}.num_blocks=1", f"{NETWORK}.longest=1"]


@pytest.fixture(scope="module")
def qm9(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty molecules in QM9's own layout, with made-up labels."""
    return write_qm9(tmp_path_factory.mktemp("qm9"), 40)


def fit(experiment: str, stage: str, runs: Path, *more: str) -> None:
    main(
        [
            "fit",
            f"--config=configs/{experiment}/{stage}.yaml",
            f"--trainer.default_root_dir={runs / stage}",
            "--data.init_args.batch_size=4",
            f"--data.init_args.cache={runs / 'cache'}",
            "--trainer.max_epochs=1",
            "--trainer.max_steps=-1",
            "--trainer.limit_train_batches=2",
            "--trainer.check_val_every_n_epoch=1",
            "--trainer.accelerator=cpu",
            *more,
        ]
    )


def every_stage(experiment: str, runs: Path, *data: str) -> dict:
    """Fit all stages; what the last one's results hold."""
    fit(experiment, "guide", runs, *SMALL, *data)
    fit(experiment, "judge", runs, *SMALL, *data)
    guide, judge = (f"{TASK}.{role}={runs / role / 'pretrained'}" for role in ("guide", "judge"))
    few = ["--sampling.num_samples=5", "--sampling.num_steps=4", "--sampling.chunk_size=4"]
    fit(experiment, "denoiser", runs, *SMALL_DENOISER, *data, judge, *few)
    fit(experiment, "time_gap_predictor", runs, *SMALL, *data)
    roles = ("denoiser", "time_gap_predictor")
    sources = [guide, judge, *(f"--sampling.{role}={runs / role / 'pretrained'}" for role in roles)]
    fit(experiment, "time_predictor", runs, *SMALL, *data, *sources, *few)
    return json.loads((runs / "time_predictor" / "results.json").read_text())


@pytest.mark.slow
def test_qm9_guides_on_every_property_and_on_two(qm9: Path, tmp_path: Path) -> None:
    results = every_stage("qm9", tmp_path, f"--data.init_args.root={qm9}")
    names = ("alpha", "mu", "cv", "homo", "lumo", "gap", "alpha mu")
    assert set(results["arms"]) == {"unguided", *names, *(f"{name}+tag" for name in names)}
    for figures in results["arms"].values():
        assert {f"mae_{name}" for name in names[:6]} <= figures.keys()
        assert 0 <= figures["atom_stability"] <= 1


def test_qm9_tells_a_conditional_network_of_edm_its_property(qm9: Path, tmp_path: Path) -> None:
    root = tmp_path / "exp_alpha"
    root.mkdir()
    torch.save(edm_weights(5, 1, 8, 1, 1000), root / "generative_model_ema.npy")
    arguments = {"context_node_nf": 1, "conditioning": ["alpha"], "dataset": "qm9_second_half"}
    (root / "args.pickle").write_bytes(pickle.dumps(argparse.Namespace(**arguments)))
    data = f"--data.init_args.root={qm9}"
    for stage in ("guide", "judge"):
        fit("qm9", stage, tmp_path, *SMALL, data)
    sources = [f"{TASK}.{role}={tmp_path / role / 'pretrained'}" for role in ("guide", "judge")]
    few = ["--sampling.num_samples=5", "--sampling.num_steps=4", "--sampling.chunk_size=4"]
    stage = "edm_alpha_time_predictor"
    fit("qm9", stage, tmp_path, *SMALL, data, *sources, *few, f"--sampling.denoiser={root}")
    results = json.loads((tmp_path / stage / "results.json").read_text())
    assert set(results["arms"]) == {"told", "told+tag", "told region", "told region+tag"}
    assert all(np.isfinite(figures["mae_alpha"]) for figures in results["arms"].values())


def test_the_embedded_molecules_guide_on_one_property_and_on_two(tmp_path: Path) -> None:
    results = every_stage("molecules", tmp_path, "--data.init_args.max_heavy_atoms=3")
    corrected = [name + tag for name in ("alpha", "alpha mu", "strong alpha") for tag in ("", "+tag")]
    assert list(results["arms"]) == ["unguided", *corrected]
    assert results["reference"]["molecule_stability"] > 0.8


def test_guide_and_judge_of_qm9_see_disjoint_halves(qm9: Path, tmp_path: Path) -> None:
    for stage in ("guide", "judge"):
        fit("qm9", stage, tmp_path, *SMALL, f"--data.init_args.root={qm9}")
    guide, judge = (load_pretrained(tmp_path / stage / "pretrained").network for stage in ("guide", "judge"))
    assert not torch.equal(guide.mean, judge.mean)  # means of different molecules


def test_the_small_qm9_goes_without_some_labels_and_holds_out_the_listed(qm9: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "data"
    lacking.mkdir()
    (lacking / "gdb9.sdf").write_bytes((qm9 / "gdb9.sdf").read_bytes())
    header, *rows = (qm9 / "gdb9.sdf.csv").read_text().splitlines()
    kept = [header.split(",").index(name) for name in ("mol_id", "alpha", "cv")]
    gap = header.split(",").index("gap")
    emptied = [
        ",".join(cell if k in kept or (k == gap and number % 5) else "" for k, cell in enumerate(row.split(",")))
        for number, row in enumerate(rows)
    ]
    (lacking / "gdb9.sdf.csv").write_text("\n".join([header, *emptied]) + "\n")
    np.savez(tmp_path / "test.npz", index=np.arange(3, 41, 8))
    data = [f"--data.init_args.root={lacking}", f"--data.init_args.test_molecules={tmp_path / 'test.npz'}"]
    results = every_stage("qm9_small", tmp_path, *data)
    assert list(results["arms"]) == [
        "unguided", "alpha", "alpha+tag", "gap", "gap+tag", "alpha gap", "alpha gap+tag"
    ]  # fmt: skip
    for figures in (*results["arms"].values(), results["reference"]):
        assert {"mae_alpha", "mae_cv", "mae_gap"} <= figures.keys()
    assert all(np.isfinite(results["reference"][f"mae_{name}"]) for name in ("alpha", "cv", "gap"))
