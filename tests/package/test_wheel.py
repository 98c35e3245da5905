"""The wheel holds the whole of one package, and works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folders of the checkout and where they are installed, as pyproject.toml maps them.
INSTALLED_AS = {
    "tag_lightning": "tag_lightning",
    "callbacks": "tag_lightning/callbacks",
    "configs": "tag_lightning/configs",
    "datamodules": "tag_lightning/datamodules",
}


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command that must succeed, without our checkout on its path; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    """Files of a wheel beside its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def built_wheel(source: Path, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source], cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, because a build leaves files behind."""
    folder = tmp_path_factory.mktemp("source")

    def unwanted(parent: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "__pycache__" or Path(parent, name).is_symlink()]

    for name in INSTALLED_AS:
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(source, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(source: Path, wheel: Path) -> None:
    expected = {
        f"{installed}/{path.relative_to(source / folder).as_posix()}": path.read_bytes()
        for folder, installed in INSTALLED_AS.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    assert contents(wheel) == expected
    assert {"tag_lightning/configs/digits/time_predictor.yaml", "tag_lightning/callbacks/__init__.py"} < set(expected)
    assert "tag_lightning/pretrained/digits/denoiser/diffusion_pytorch_model.safetensors" in expected


def test_every_folder_with_modules_is_a_package(source: Path) -> None:
    folders = {path.parent for name in INSTALLED_AS for path in (source / name).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_a_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    run([sys.executable, "-c", "from setuptools.build_meta import build_sdist; build_sdist('..')"], cwd=copy)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert contents(built_wheel(unpacked, tmp_path)) == contents(wheel)


@pytest.mark.slow
def test_fit_runs_in_an_environment_and_a_folder_without_a_checkout(wheel: Path, tmp_path: Path) -> None:
    environment, folder = tmp_path / "environment", tmp_path / "folder"
    folder.mkdir()
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], cwd=folder)
    # Packages of others come from the running environment, whose own .pth files are not read from there.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "others.pth").write_text("\n".join(sorted(others)))

    found = "import importlib.util as u, tag_lightning as t; print(t.__file__, *map(u.find_spec, {names}))"
    names = ("callbacks", "configs", "datamodules")
    assert run([python, "-c", found.format(names=names)], cwd=folder).split() == [
        str(packages / "tag_lightning" / "__init__.py"),
        *["None"] * len(names),
    ]
    settings = [
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=2",
        "--sampling.every_n_epochs=1",
        "--sampling.num_samples=6",
        "--sampling.num_steps=4",
    ]
    run([python, "-m", "tag_lightning", "fit", "--config", "digits/time_predictor", *settings], cwd=folder)
    results = json.loads((folder / "runs" / "digits" / "time_predictor" / "results.json").read_text())
    assert {"unguided", "dps+tag"} <= results["arms"].keys()
    assert [path.name for path in folder.iterdir()] == ["runs"]
