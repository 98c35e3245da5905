"""SIGTERM and Ctrl-C while RDKit computes geometries, which it does not interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from types import FrameType

import pytest
from rdkit import Chem

from tag_lightning.chemistry import embedding
from tag_lightning.chemistry.embedding import embed, in_parallel
from tag_lightning.interruption import interruption

# Says when the first molecule is about to be embedded, which takes a minute.
_COMMAND = """
import runpy, sys
from rdkit.Chem import rdDistGeom
found = rdDistGeom.EmbedMolecule

def embed(mol, *args):
    if mol.GetNumAtoms() > 100:
        print("embedding", flush=True)
    return found(mol, *args)

rdDistGeom.EmbedMolecule = embed
runpy.run_module("tag_lightning", run_name="__main__", alter_sys=True)
"""


def _delayed(seconds: float) -> threading.Timer:
    """Ctrl-C for this process after so many seconds."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_chains_of_200_carbons_do_not_delay_a_stop(signum: int, tmp_path: Path) -> None:
    (tmp_path / "chains.smi").write_text("".join(f"{'C' * length}\n" for length in range(200, 212)))
    arguments = ["fit", "--config=my_molecules/guide", f"--data.path={tmp_path / 'chains.smi'}"]
    arguments += [f"--data.cache={tmp_path / 'cache'}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", _COMMAND, *arguments, "--data.max_atoms=null", "--trainer.accelerator=cpu"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("embedding" in line for line in process.stdout), process.communicate()[1]
        time.sleep(1)
        started = time.monotonic()
        process.send_signal(signum)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - started < 15
    assert process.returncode == 128 + signum, text
    assert f"stopped by {signal.Signals(signum).name} before there was anything to keep" in text
    assert "Traceback" not in text
    assert not list((tmp_path / "cache").glob("*"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches this process, also if it was started in the background, where a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("parallel", [False, True])
def test_ctrl_c_is_no_failure_of_the_molecule(parallel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_SECONDS", 120)  # far from the seconds that RDKit takes to notice
    chain = Chem.MolFromSmiles("C" * 120)
    timer = _delayed(1.0)  # past the substructure search of RDKit, in which a Ctrl-C would be lost
    try:
        with pytest.raises(KeyboardInterrupt):
            _ = list(in_parallel(embed, [chain] * 2, "chains", 2)) if parallel else embed(chain)
    finally:
        timer.join()
        # What a thread still embeds would take the Ctrl-C of a later test.
        wait(interruption.abandoned)


@pytest.mark.parametrize("attempts", [0, 5])
def test_too_few_attempts_show_ctrl_c(attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first attempt it shows in another one."""
    tries: list[int] = []

    def stopped(mol: Chem.Mol, seed: int, limit: int = 0) -> tuple[bool, int, bool]:
        tries.append(limit)
        return (False, attempts, False) if len(tries) == 1 else (False, 1, True)

    monkeypatch.setattr(embedding, "_distance_geometry", stopped)
    with pytest.raises(KeyboardInterrupt):
        embed(Chem.MolFromSmiles("CCO"))
    assert tries == ([0] if attempts else [0, 1])


@pytest.fixture
def caught() -> Iterator[list[int]]:
    """Signals that arrive."""
    arrived: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        arrived.append(signum)

    before = signal.signal(signal.SIGINT, note)
    yield arrived
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_reaches_the_process_again_after_parallel_work(caught: list[int]) -> None:
    chains = [Chem.MolFromSmiles("C" * length) for length in (3, 4, 5, 6) * 10]
    assert len(list(in_parallel(embed, chains, "chains", 4))) == 40
    os.kill(os.getpid(), signal.SIGINT)
    assert caught == [signal.SIGINT]


def test_failures_of_rdkit_itself_stay_failures(caught: list[int]) -> None:
    with pytest.raises(embedding.EmbeddingError, match="no geometry found"):
        embed(Chem.MolFromSmiles("C1(C2)(C3)C4C5C1C6C2C3C4C56"))
    assert caught == []


def test_the_relaxation_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chem.AddHs(Chem.MolFromSmiles("C" * 10))
    assert embedding._found_geometry(chain, 0)
    monkeypatch.setattr(embedding, "_PAIRS_AT_ONCE", 1)
    with pytest.raises(embedding.EmbeddingError, match="the relaxation did not converge within 10 s"):
        embedding._relax(chain, time.monotonic() - 1)
