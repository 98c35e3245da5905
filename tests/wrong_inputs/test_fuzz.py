"""Whatever a file holds, reading it works or ends in one of the errors that the command line prints in a line.

The cases are the same in every run; ``TAG_LIGHTNING_FUZZ=1000`` draws that many new ones for each test.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pickle
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import wavfile
from tiny_runs import seeded

from tag_lightning.cli import TagCLI
from tag_lightning.cli_errors import OneLineParser
from tag_lightning.config_files import LayeredConfig, config_file
from tag_lightning.datamodules import AudioFolderDataModule, QM9DataModule
from tag_lightning.datamodules.molecule_files import read_molecules
from tag_lightning.datamodules.qm9_files import read_xyz
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import ImageClassifier
from tag_lightning.pretrained import describe, load_pretrained, save_pretrained
from tag_lightning.pretrained.store import CHECKPOINT_KEY

EXPECTED = (ValueError, OSError)
BOUNDED = settings(
    max_examples=int(os.environ.get("TAG_LIGHTNING_FUZZ", 25)),
    deadline=None,
    derandomize="TAG_LIGHTNING_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

plain = st.none() | st.booleans() | st.integers(-9, 99) | st.floats() | st.text(max_size=12)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


@contextlib.contextmanager
def file_of(content: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """``whole`` cut off, or with some bytes replaced."""
    content = bytearray(whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole)
    for _ in range(draw(st.integers(0, 4))):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a network, and a checkpoint of the same."""
    root = tmp_path_factory.mktemp("saved")
    network = seeded(lambda: ImageClassifier(widths=(8, 8)), 0)
    save_pretrained(root / "network", network, LinearSchedule(20))
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights, CHECKPOINT_KEY: describe(network, LinearSchedule(20))}, root / "a.ckpt")
    return root


def ends_clearly(read: Callable[[], Any]) -> bool:
    """Whether ``read`` succeeds, or raises an expected error that says something; any other error is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except EXPECTED as error:
        return bool(str(error))
    return True


@BOUNDED
@given(content=st.binary(max_size=300) | values.map(lambda v: json.dumps(v).encode()))
def test_any_config_json(content: bytes) -> None:
    with file_of(content, "config.json") as path:
        assert ends_clearly(lambda: load_pretrained(path.parent))


@BOUNDED
@given(data=st.data())
def test_a_config_json_with_other_values(data: st.DataObject, saved: Path) -> None:
    file = saved / "network" / "config.json"
    whole = file.read_bytes()
    config = json.loads(whole)
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
        config[name] = data.draw(values)
    file.write_text(json.dumps(config))
    try:
        assert ends_clearly(lambda: load_pretrained(saved / "network"))
    finally:
        file.write_bytes(whole)


@BOUNDED
@given(data=st.data(), name=st.sampled_from(["diffusion_pytorch_model.safetensors", "schedule.safetensors"]))
def test_damaged_weights(data: st.DataObject, name: str, saved: Path) -> None:
    file = saved / "network" / name
    whole = file.read_bytes()
    file.write_bytes(data.draw(damaged(whole)))
    try:
        assert ends_clearly(lambda: load_pretrained(saved / "network"))
    finally:
        file.write_bytes(whole)


@BOUNDED
@given(data=st.data(), suffix=st.sampled_from([".ckpt", ".pt", ".npy"]))
def test_damaged_checkpoints(data: st.DataObject, suffix: str, saved: Path) -> None:
    with file_of(data.draw(damaged((saved / "a.ckpt").read_bytes())), f"a{suffix}") as path:
        assert ends_clearly(lambda: load_pretrained(path))


@BOUNDED
@given(content=values)
def test_checkpoints_of_anything(content: Any, saved: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"state_dict": content, CHECKPOINT_KEY: content}, buffer)
    with file_of(buffer.getvalue(), "a.ckpt") as path:
        assert ends_clearly(lambda: load_pretrained(path))


@BOUNDED
@given(content=st.binary(max_size=200) | values.map(pickle.dumps))
def test_arguments_of_edm(content: bytes) -> None:
    with file_of(content, "args.pickle") as path:
        torch.save({"a": torch.ones(1)}, path.parent / "generative_model.npy")
        assert ends_clearly(lambda: load_pretrained(path.parent))


@BOUNDED
@given(content=values.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=80))
def test_flags_of_openai(content: bytes) -> None:
    with file_of(content, "a.json") as path:
        torch.save({"a": torch.ones(1)}, path.with_suffix(".pt"))
        assert ends_clearly(lambda: load_pretrained(path.with_suffix(".pt")))


TABLE = b'smiles,alpha,mu\nC,1,2\n"CC",3,4\n'
RECORD = b"""methane
     RDKit          3D

  1  0  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
M  END
>  <alpha>  (1)
1.5

$$$$
"""
XYZ = "\n".join(
    (
        "1",
        "gdb 1\t157.7\t157.7\t157.7\t0.\t13.21\t-0.3\t0.1\t0.5\t35.3\t0.04\t-40.4\t-40.4\t-40.4\t-40.4\t6.4",
        "C\t0.0\t1.0\t0.0\t-0.5",
        "1.0",
        "C\tC",
        "x\tx\n",
    )
)


@BOUNDED
@given(
    content=damaged(TABLE) | st.text(max_size=120).map(lambda t: ("smiles,alpha\n" + t).encode()),
    sign=st.sampled_from(",;\t"),
)
def test_tables_of_molecules(content: bytes, sign: str) -> None:
    with file_of(content.replace(b",", sign.encode()), "a.csv") as path:
        assert ends_clearly(lambda: list(read_molecules(path, ["alpha", "mu"])))


@BOUNDED
@given(content=damaged(RECORD) | st.binary(max_size=200))
def test_sd_files(content: bytes) -> None:
    with file_of(content, "a.sdf") as path:
        assert ends_clearly(lambda: list(read_molecules(path, ["alpha"])))


@BOUNDED
@given(content=damaged(XYZ.encode()))
def test_molecules_of_qm9(content: bytes) -> None:
    assert ends_clearly(lambda: read_xyz(content.decode("utf-8", "replace"), "dsgdb9nsd_000001.xyz", "a.xyz"))


def wav(frames: int = 40) -> bytes:
    """A file of a sine, mono at 1 kHz."""
    with io.BytesIO() as file:
        wavfile.write(file, 1000, (9000 * np.sin(np.arange(frames))).astype(np.int16))
        return file.getvalue()


@BOUNDED
@given(content=damaged(wav()) | st.binary(max_size=200), suffix=st.sampled_from(["wav", "flac", "ogg", "mp3", "au"]))
def test_sounds(content: bytes, suffix: str) -> None:
    pytest.importorskip("soundfile")
    with tempfile.TemporaryDirectory() as folder:
        for name, file in (("train/a/0.wav", wav()), ("train/a/1.wav", wav()), (f"test/a/0.{suffix}", content)):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(file)
        data = AudioFolderDataModule(folder, 1000, 16)
        assert ends_clearly(data.prepare_data)
        assert ends_clearly(lambda: data.table("test"))


@BOUNDED
@given(content=st.binary(max_size=120) | values.map(lambda v: yaml.safe_dump(v).encode()))
def test_yaml_files(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    parser = OneLineParser()
    parser.add_argument("--config", action=LayeredConfig, type=config_file)
    parser.add_argument("--size", type=int)
    with file_of(content, "a.yaml") as path:
        try:
            parser.parse_args([f"--config={path}"])
        except SystemExit:
            assert capsys.readouterr().err.startswith("error: ")


class Parsing(TagCLI):
    """The command line up to its settings: nothing is run, and no network or trainer made."""

    def instantiate_classes(self) -> None:
        return

    def _run_subcommand(self, subcommand: str) -> None:
        return


GUIDE = yaml.safe_load(Path("configs/digits/guide.yaml").read_text())


@pytest.fixture(scope="module")
def cli() -> Parsing:
    """With the options of `fit`, which take a while to collect."""
    settings = {"seed_everything_default": 0, "auto_configure_optimizers": False, "save_config_callback": None}
    return Parsing(parser_class=OneLineParser, args=["fit", "--config=digits/guide"], **settings)


def keys(settings: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, at any depth."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        yield (*above, name)
        yield from keys(value, (*above, name))


@settings(BOUNDED, max_examples=min(BOUNDED.max_examples, 200))
@given(changes=st.dictionaries(st.sampled_from(sorted(keys(GUIDE))), values, min_size=1, max_size=2))
def test_a_configuration_with_other_values(
    changes: dict[tuple[str, ...], Any], cli: Parsing, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy.deepcopy(GUIDE)
    for path, value in changes.items():
        holder: Any = config
        for name in path[:-1]:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder[path[-1]] = value
    capsys.readouterr()
    with file_of(yaml.safe_dump(config).encode(), "a.yaml") as file:
        try:
            assert ends_clearly(lambda: cli.parse_arguments(cli.parser, ["fit", f"--config={file}"]))
        except SystemExit:
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert len(line) > len("error: ")


@pytest.mark.parametrize("name", ["../escaped.xyz", "{root}/escaped.xyz", "a/../../escaped.xyz"])
def test_archives_never_leave_their_folder(name: str, tmp_path: Path) -> None:
    """QM9's archive is read entry by entry and never unpacked; checkpoints are archives as well."""
    folder = tmp_path / "deep" / "qm9"
    folder.mkdir(parents=True)
    name, buffer = name.format(root=tmp_path), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "x")
    with tarfile.open(folder / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as tar:
        for kind in (tarfile.REGTYPE, tarfile.SYMTYPE):
            entry = tarfile.TarInfo(name if kind == tarfile.REGTYPE else "link.xyz")
            entry.type, entry.linkname, entry.size = kind, name, len(XYZ) if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(XYZ.encode()))
    assert ends_clearly(lambda: QM9DataModule(str(folder), cache=None).prepare_data())
    for suffix in (".ckpt", ".pt", ".npy"):
        (folder / f"a{suffix}").write_bytes(buffer.getvalue())
        with pytest.raises(EXPECTED):
            load_pretrained(folder / f"a{suffix}")
    assert not list(tmp_path.rglob("escaped*"))
    assert not (tmp_path / "escaped.xyz").exists()
