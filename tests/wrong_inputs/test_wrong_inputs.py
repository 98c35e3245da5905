"""One table of wrong inputs: each ends in one message that names the mistake, and leaves nothing behind.

``settings_table.SETTINGS`` are mistakes in the arguments of a class, which configurations and callers share. This file
adds mistakes in files, and a few settings of each kind through the command line, which is what prints the message.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openai_unet import OpenAIUNetReference
from PIL import Image
from safetensors.torch import load_file, save_file
from settings_table import SETTINGS, WrongSetting
from tiny_runs import TASK, TinyNetworks, predictor_arguments, seeded

from tag_lightning.class_names import public_classes
from tag_lightning.cli import main
from tag_lightning.datamodules import ImageFolderDataModule, MoleculeFilesDataModule, QM9DataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import ImageClassifier, WaveformCNN
from tag_lightning.pretrained import load_pretrained, save_pretrained

EXPECTED = (ValueError, OSError)
REMEDY = r"must|;|expected|choose|give |at least|need|one of|cannot|only|refused|instead|remove|repair|provide|\(none\)"


def _listing(root: Path) -> set[Path]:
    """Files, since the folder of a run may be made before its settings are checked."""
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def assert_clear(message: str, named: str) -> None:
    assert named in message
    assert "\n" not in message.strip()
    assert len(message) < 1200
    assert re.search(REMEDY, message), f"no way out is named: {message}"
    assert "Traceback" not in message


def _built(value: Any) -> Any:
    if isinstance(value, dict) and "class" in value:
        return public_classes()[value["class"]](**{name: v for name, v in value.items() if name != "class"})
    return value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.name} {list(s.arguments.values())}")
def test_settings(setting: WrongSetting) -> None:
    arguments = {name: _built(value) for name, value in setting.arguments.items()}
    with pytest.raises(EXPECTED) as caught:
        public_classes()[setting.name](**arguments)
    assert_clear(str(caught.value), setting.named)


def _network(folder: Path, **config: Any) -> Path:
    """A folder of a network whose configuration has other entries."""
    save_pretrained(folder, seeded(lambda: ImageClassifier(widths=(8, 8)), 0), LinearSchedule(20))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def _weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    file = _network(folder) / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})
    return folder


def _lost_mean(folder: Path) -> Path:
    """A network whose batch normalisation has lost its mean; that its likelihoods were never measured is no mistake."""
    network = WaveformCNN(num_timesteps=20, widths=(8,))
    save_pretrained(folder, network, LinearSchedule(20))
    assert load_pretrained(folder).network.typical_nll.isnan().all()  # type: ignore[union-attr]
    network.hidden[0].running_mean[1] = torch.nan
    save_pretrained(folder, network, LinearSchedule(20))
    return folder


def _bytes(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _scheduler(folder: Path, content: str) -> Path:
    _network(folder)
    (folder / "schedule.safetensors").unlink()
    (folder / "scheduler_config.json").write_text(content)
    return folder


def _openai(root: Path, flags: str) -> Path:
    (root / "model.json").write_text(flags)
    weights = OpenAIUNetReference(multipliers=(1,), attention=(1,)).weights
    return _saved(root / "model.pt", {name: value.float() for name, value in weights.items()})


def _edm(root: Path, arguments: Any) -> Path:
    _saved(root / "generative_model.npy", {"weights": torch.ones(1)})
    _bytes(root / "args.pickle", pickle.dumps(arguments))
    return root


# Each makes the wrong network in a folder and returns its source.
NETWORKS: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "nothing": (lambda r: r / "nothing", "no network under"),
    "empty folder": (lambda r: r, "no network under"),
    "hub name": (lambda r: "hf://name", "must be hf://owner/name"),
    "pipeline class": (lambda r: _network(r / "n", _class_name="DiffusionPipeline"), "DiffusionPipeline"),
    "other pipeline": (lambda r: _network(r / "n", _class_name="DDPMPipeline"), "DDPMPipeline"),
    "auto class": (lambda r: _network(r / "n", _class_name="AutoModel"), "AutoModel"),
    "scheduler class": (lambda r: _network(r / "n", _class_name="DDPMScheduler"), "DDPMScheduler"),
    "function": (lambda r: _network(r / "n", _class_name="load_pretrained"), "load_pretrained"),
    "dotted class": (lambda r: _network(r / "n", _class_name="os.system"), "os.system"),
    "module": (lambda r: _network(r / "n", _class_name="pipelines"), "pipelines"),
    "dunder": (lambda r: _network(r / "n", _class_name="__dict__"), "__dict__"),
    "class list": (lambda r: _network(r / "n", _class_name=["SimpleCNN"]), "SimpleCNN"),
    "auto map": (lambda r: _network(r / "n", auto_map={"AutoModel": "code.Net"}), "has auto_map"),
    "quantised": (lambda r: _network(r / "n", quantization_config={"quant_method": "x"}), "quantization_config"),
    "other sizes": (lambda r: _network(r / "n", num_classes=7), "cannot load the network"),
    "sizes as text": (lambda r: _network(r / "n", widths="wide"), "cannot load the network"),
    "negative sizes": (lambda r: _network(r / "n", widths=[-8, 8]), "cannot load the network"),
    "null sizes": (lambda r: _network(r / "n", widths=None), "cannot load the network"),
    "no class": (lambda r: _bytes(r / "n/config.json", b"{}").parent, "has no _class_name"),
    "list": (lambda r: _bytes(r / "n/config.json", b"[1]").parent, "has no _class_name"),
    "not JSON": (lambda r: _bytes(r / "n/config.json", b"{").parent, "is not JSON"),
    "not text": (lambda r: _bytes(r / "n/config.json", b"\xff\xfe").parent, "is not JSON"),
    "no weights": (
        lambda r: _bytes(r / "n/config.json", b'{"_class_name": "ImageClassifier"}').parent,
        "cannot load the network",
    ),
    "NaN": (lambda r: _weights(r / "n", lambda w: w["head.bias"].fill_(torch.nan)), "NaN or infinity in head.bias"),
    "infinity": (
        lambda r: _weights(r / "n", lambda w: w["head.bias"].fill_(torch.inf)),
        "NaN or infinity in head.bias",
    ),
    "NaN in a buffer": (lambda r: _lost_mean(r / "n"), "NaN or infinity in hidden.0.running_mean"),
    "missing": (lambda r: _weights(r / "n", lambda w: w.pop("head.bias")), "missing keys head.bias"),
    "unexpected": (lambda r: _weights(r / "n", lambda w: w.update(b=torch.ones(1))), "unexpected keys b"),
    "other shape": (lambda r: _weights(r / "n", lambda w: w.update({"head.bias": torch.ones(3)})), "cannot load"),
    "schedule of text": (lambda r: _bytes(_network(r / "n") / "schedule.safetensors", b"x").parent, "noise schedule"),
    "scheduler of a pipeline": (lambda r: _scheduler(r / "n", '{"_class_name": "DDPMPipeline"}'), "DDPMPipeline"),
    "scheduler unknown": (lambda r: _scheduler(r / "n", '{"_class_name": "Nope"}'), "Nope"),
    "scheduler list": (lambda r: _scheduler(r / "n", "[]"), "must hold an object"),
    "scheduler text": (lambda r: _scheduler(r / "n", "{"), "is not JSON"),
    "scheduler without a class": (lambda r: _scheduler(r / "n", "{}"), "no noise schedule of discrete timesteps"),
    "scheduler settings": (
        lambda r: _scheduler(r / "n", '{"_class_name": "DDPMScheduler", "num_train_timesteps": "many"}'),
        "no noise schedule of discrete timesteps",
    ),
    "beta schedule": (
        lambda r: _scheduler(r / "n", '{"_class_name": "DDPMScheduler", "beta_schedule": "steep"}'),
        "no noise schedule of discrete timesteps",
    ),
    "zero terminal SNR": (
        lambda r: _scheduler(r / "n", '{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true}'),
        "strictly between 0 and 1",
    ),
    "empty checkpoint": (lambda r: _bytes(r / "a.ckpt", b""), "not a readable checkpoint"),
    "text checkpoint": (lambda r: _bytes(r / "a.ckpt", b"weights"), "is not a checkpoint"),
    "plain pickle": (lambda r: _bytes(r / "a.ckpt", pickle.dumps({"a": 1})), "checkpoint"),
    "tensor": (lambda r: _saved(r / "a.ckpt", torch.ones(1)), "not a Lightning checkpoint"),
    "object": (lambda r: _saved(r / "a.ckpt", {"state_dict": argparse.Namespace()}), "refused"),
    "other's": (lambda r: _saved(r / "a.ckpt", {"state_dict": {}}), "not made by tag_lightning"),
    "description of text": (
        lambda r: _saved(r / "a.ckpt", {"state_dict": {}, "tag_lightning": "SimpleCNN"}),
        "cannot load the network",
    ),
    "pipeline in a checkpoint": (
        lambda r: _saved(
            r / "a.ckpt",
            {
                "state_dict": {},
                "tag_lightning": {"class": "DiffusionPipeline", "config": {}, "alphas_cumprod": None},
            },
        ),
        "DiffusionPipeline",
    ),
    "OpenAI without flags": (lambda r: _saved(r / "model.pt", {"a": torch.ones(1)}), "write the flags"),
    "OpenAI flags of text": (lambda r: _openai(r, "image_size 64"), "is not JSON"),
    "OpenAI flags in a list": (lambda r: _openai(r, "[64]"), "must hold an object"),
    "OpenAI unknown flag": (lambda r: _openai(r, '{"image_size": 64, "heads": 4}'), "has heads, not a flag"),
    "OpenAI size": (lambda r: _openai(r, '{"image_size": -1}'), "must have image_size"),
    "OpenAI heads": (lambda r: _openai(r, '{"image_size": 64, "num_heads": 0}'), "diffusers can represent"),
    "OpenAI head channels": (lambda r: _openai(r, '{"image_size": 64, "num_head_channels": 0}'), "represent"),
    "OpenAI steps": (lambda r: _openai(r, '{"image_size": 64, "diffusion_steps": 0}'), "at least 21"),
    "OpenAI schedule": (lambda r: _openai(r, '{"image_size": 64, "noise_schedule": "x"}'), "linear or cosine"),
    "EDM arguments": (lambda r: _edm(r, [1]), "must hold EDM's arguments"),
    "EDM code": (lambda r: _edm(r, Path("x")), "holds more than EDM's arguments"),
    "EDM architecture": (lambda r: _edm(r, argparse.Namespace(tanh=False)), "has tanh False"),
    "EDM weights": (lambda r: _edm(r, argparse.Namespace()), "its noise schedule was learned"),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, named = NETWORKS[case]
    source = make(tmp_path)
    before = _listing(tmp_path)
    with pytest.raises(EXPECTED) as caught:
        load_pretrained(source)
    assert_clear(str(caught.value), named)
    assert _listing(tmp_path) == before


def _images(root: Path, **files: bytes) -> Path:
    for split in ("train", "test"):
        for name in "ab":
            for i in range(3):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    for name, content in files.items():
        (root / "train" / "a" / f"{name}.png").write_bytes(content)
    return root


def _table(root: Path, text: str, name: str = "a.csv") -> Path:
    return _bytes(root / name, text.encode())


DATA: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no image folder": (lambda r: ImageFolderDataModule(str(r / "nothing"), cache=None), "does not exist"),
    "no classes": (
        lambda r: ImageFolderDataModule(str(_bytes(r / "train/x.png", b"").parents[1]), cache=None),
        "does not exist",
    ),
    "an image of text": (lambda r: ImageFolderDataModule(str(_images(r, bad=b"text")), 8, cache=None), "bad.png"),
    "an empty image": (lambda r: ImageFolderDataModule(str(_images(r, bad=b"")), 8, cache=None), "bad.png"),
    "no file": (lambda r: MoleculeFilesDataModule(str(r / "no.csv"), cache=None), "no.csv"),
    "unknown kind": (lambda r: MoleculeFilesDataModule(str(_table(r, "C", "a.mol9")), cache=None), "unknown kind"),
    "no smiles": (lambda r: MoleculeFilesDataModule(str(_table(r, "a,b\n1,2\n")), cache=None), "no column 'smiles'"),
    "empty table": (lambda r: MoleculeFilesDataModule(str(_table(r, "")), cache=None), "no column 'smiles'"),
    "two columns": (
        lambda r: MoleculeFilesDataModule(str(_table(r, "smiles,alpha,alpha\nC,1,2\n")), cache=None),
        "several columns 'alpha'",
    ),
    "truncated row": (
        lambda r: MoleculeFilesDataModule(str(_table(r, "smiles,alpha,mu\nC,1\n")), cache=None),
        "line 2: 2 cells under 3 columns",
    ),
    "label of text": (
        lambda r: MoleculeFilesDataModule(str(_table(r, "smiles,alpha,mu\nC,big,1\n")), cache=None),
        "alpha is 'big', expected a number",
    ),
    "too few": (lambda r: MoleculeFilesDataModule(str(_table(r, "smiles\nC\n")), cache=None), "at least 10"),
    "NUL in a table": (
        lambda r: MoleculeFilesDataModule(str(_table(r, 'smiles,alpha,mu\n"C\0,1,1\n')), cache=None),
        "a.csv",
    ),
    "a field without its end": (
        lambda r: MoleculeFilesDataModule(str(_table(r, 'smiles,alpha,mu\n"' + "C" * 200_000)), cache=None),
        "a.csv",
    ),
    "SD file of text": (lambda r: MoleculeFilesDataModule(str(_table(r, "text", "a.sdf")), cache=None), "at least 10"),
    "no QM9": (lambda r: QM9DataModule(str(r), cache=None), "QM9 is not in"),
    "QM9 list of text": (
        lambda r: QM9DataModule(str(r), test_molecules=str(_bytes(r / "t.npz", b"x")), cache=None),
        "QM9 is not in",
    ),
    "QM9 archive of text": (
        lambda r: QM9DataModule(str(_bytes(r / "dsgdb9nsd.xyz.tar.bz2", b"x").parent), cache=None),
        "dsgdb9nsd",
    ),
    "QM9 molecule of text": (
        lambda r: QM9DataModule(str(_bytes(r / "dsgdb9nsd_000001.xyz", b"x").parent), cache=None),
        "dsgdb9nsd_000001",
    ),
    "QM9 table of text": (
        lambda r: QM9DataModule(
            str(_bytes(_bytes(r / "gdb9.sdf", b"x").parent / "gdb9.sdf.csv", b"y").parent), cache=None
        ),
        "gdb9",
    ),
}


def _read(module: Any) -> None:
    module.prepare_data()
    table = module.table("train")
    table[list(range(len(table)))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", DATA)
def test_data(case: str, tmp_path: Path) -> None:
    make, named = DATA[case]
    module = make(tmp_path)
    before = _listing(tmp_path)
    with pytest.raises(EXPECTED) as caught:
        _read(module)
    assert_clear(" ".join(str(caught.value).split()), named)
    assert _listing(tmp_path) == before


# Of the kinds above and of the command line's own, a few each: what is printed and with which exit code.
COMMANDS = [
    (["fitt"], 2, "invalid choice: 'fitt'"),
    (["fit", "--config=nowhere.yaml"], 2, "nowhere.yaml is neither a file nor"),
    (["fit", "--config=digits/guid"], 2, "did you mean digits/guide"),
    (["fit", "--model=Nope"], 2, "Nope"),
    (["fit", "--model=os.system"], 2, "os.system"),
    (["fit", "--config=digits/guide", "--data=FolderOfImages"], 2, "FolderOfImages"),
    (["fit", "--config=digits/guide", "--data.batch_size=many"], 2, "data.batch_size must be a whole number, got many"),
    (["fit", "--config=digits/denoiser", "--model.prediction_type=x0"], 2, "prediction_type must be one of epsilon, "),
    (["fit", "--config=latent_digits/denoiser", "--data.autoencoder=nowhere"], 1, "no network under nowhere"),
    (["fit", "--config=latent_digits/denoiser", "--data.autoencoder=digits/denoiser"], 1, "is not an autoencoder"),
    (["fit", "--config=digits/guidance_adapters", "--model.base=digits/denoiser"], 1, "give a conditional denoiser"),
    (["fit", "--config=digits/noisy_guide", "--model.base=molecules/guide"], 1, "experts are made on an ImageClassif"),
    (["fit", "--config=digits/noisy_guide", "--data.denoiser=molecules/denoiser"], 1, "set data.init_args.shape"),
    (["fit", "--config=my_audio/judge", "--data.root=nowhere"], 1, "nowhere/train does not exist"),
    (["validate", "--config=digits/guide"], 1, "validate needs weights"),
]
SAMPLING = [
    ("--sampling.arms={a: {best_of: 0}}", 1, "best_of must be at least 1"),
    ("--sampling.arms={a: {guidance: [{class_path: Corruption, init_args: {sigma: -1}}]}}", 2, "sigma must be"),
    ("--sampling.solver={class_path: DDIM, init_args: {eta: 2}}", 2, "eta must lie in [0, 1]"),
    ("--sampling.denoiser=hf://name", 1, "must be hf://owner/name"),
    ("--sampling.denoiser=models/256x256_diffusion_uncond.pt", 1, "download https://openaipublic.blob"),
    (f"{TASK}.judge=nowhere", 1, "no network under nowhere"),
    (f"{TASK}.metrics=[PSNR]", 1, "PSNR compares restored samples with their originals, which ImageTask does not have"),
    (f"{TASK}.metrics=[LogSpectralDistance]", 1, "LogSpectralDistance compares restored samples"),
    (f"{TASK}.metrics=[FAD]", 1, "FAD compares sounds, but DigitsDataModule has no sample rate"),
    (f"{TASK}.metrics=[FCD]", 1, "FCD compares molecules"),
    (f"{TASK}.metrics=[MeanReward]", 2, "network"),
    ("--sampling.arms={a: {guidance: [AdapterGuidance]}}", 1, "AdapterGuidance needs a denoiser that was trained"),
    ("--sampling.arms={a: {guidance: [{class_path: RLGuidance, init_args: {tuned: nowhere}}]}}", 1, "under nowhere"),
    ("--sampling.arms={a: {guidance: [CFG]}}", 1, "CFG"),
    ("--data.init_args.size=40000", 1, "lower data.init_args.size"),
    ("--sampling.num_steps=many", 2, "sampling.num_steps must be a whole number, got many"),
]


def assert_fails(arguments: list[str], code: int, named: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _listing(run)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in ((1, 2) if code == 2 else (code,))
    text = capsys.readouterr().err
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert_clear(line, named)
    assert "Traceback (most" not in text
    assert _listing(run) == before


@pytest.mark.parametrize(("arguments", "code", "named"), COMMANDS, ids=lambda v: str(v))
def test_commands(
    arguments: list[str],
    code: int,
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_fails(arguments, code, named, tmp_path, capsys)


@pytest.mark.parametrize(("setting", "code", "named"), SAMPLING, ids=lambda v: str(v))
def test_commands_that_sample(
    setting: str, code: int, named: str, tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_fails(predictor_arguments("fit", tmp_path / "run", tiny, setting), code, named, tmp_path / "run", capsys)


def test_there_are_at_least_150() -> None:
    distinct = {(s.name, str(s.arguments)) for s in SETTINGS}
    assert len(distinct) == len(SETTINGS)
    assert len(SETTINGS) + len(NETWORKS) + len(DATA) + len(COMMANDS) + len(SAMPLING) >= 150
