"""The same molecules and figures on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_molecules
from test_molecules import arguments

from tag_lightning.cli import main

pytestmark = pytest.mark.slow

networks = test_molecules.networks  # the fixture
TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]
ARM = "dps+tag"


@pytest.fixture(scope="module")
def trained(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of three steps, on one process."""
    run = tmp_path_factory.mktemp("runs") / "molecules"
    main(arguments("fit", run, networks, "--sampling.arms={unguided: {}}"))
    return run


def on_one_and_two(verb: str, trained: Path, networks: Path, folder: Path, *more: str) -> tuple[Path, Path]:
    """The folders of the same run on one process and on two."""
    one, two = folder / "one", folder / "two"
    checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
    main(arguments(verb, one, networks, checkpoint, "--trainer.devices=1", *more))
    finished = subprocess.run(
        [sys.executable, "-m", "tag_lightning", *arguments(verb, two, networks, checkpoint, *TWO, *more)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return one, two


@pytest.mark.parametrize(
    ("num_samples", "batch_size"),
    [
        pytest.param(9, 2, id="the last of three chunks incomplete, two batches of data"),
        pytest.param(3, 64, id="a process without chunk and without data"),
    ],
)
def test_validation_gives_the_same_figures(
    num_samples: int, batch_size: int, trained: Path, networks: Path, tmp_path: Path
) -> None:
    settings = [f"--sampling.num_samples={num_samples}", f"--data.init_args.batch_size={batch_size}"]
    runs = on_one_and_two("validate", trained, networks, tmp_path, *settings)
    one, two = (json.loads((run / "results.json").read_text()) for run in runs)
    assert list(one["arms"]) == list(two["arms"]) == ["unguided", "dps", ARM, "both+tag", "broken"]
    for arm, figures in one["arms"].items():
        assert figures["num_samples"] == num_samples
        shares = ("atom_stability", "validity", "connected", "uniqueness", "novelty", "nan")
        for name in ("mae_alpha", "mae_mu", "time_gap", *shares):
            if figures[name] is None:  # no molecule of that arm could be judged
                assert arm == "broken"
                assert two["arms"][arm][name] is None
            else:
                assert two["arms"][arm][name] == pytest.approx(figures[name], rel=1e-4, abs=1e-6), (arm, name)
    assert one["reference"] == pytest.approx(two["reference"], rel=1e-4)
    assert one["arms"]["broken"]["nan"] > 0


def test_prediction_gives_the_same_molecules_to_the_last_bit(trained: Path, networks: Path, tmp_path: Path) -> None:
    settings = ["--sampling.num_samples=9", f"--sampling.predict_arm={ARM}"]
    runs = on_one_and_two("predict", trained, networks, tmp_path, *settings)
    with np.load(runs[0] / "samples" / f"{ARM}.npz") as one, np.load(runs[1] / "samples" / f"{ARM}.npz") as two:
        assert one["numbers"].shape[0] == 9
        assert len(np.unique((one["numbers"] > 0).sum(1))) > 1
        assert np.abs(one["positions"]).max() > 0.1
        for name in ("numbers", "positions"):
            assert np.array_equal(one[name], two[name])
    first, second = ((run / "samples" / f"{ARM}.sdf").read_text() for run in runs)
    assert first == second
