"""Networks are loaded from folders and checkpoints unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tag_lightning.pretrained as pretrained
from tag_lightning.diffusion import LinearSchedule, NoiseSchedule
from tag_lightning.networks import ImageClassifier, MLPTimePredictor, SimpleCNN
from tag_lightning.pretrained import constructor_defaults, describe, load_pretrained, require_same, save_pretrained
from tag_lightning.pretrained.store import CHECKPOINT_KEY

SHIPPED = [
    "audio/denoiser",
    "audio/judge",
    "audio/time_gap_predictor",
    "audio/time_predictor",
    "cifar10_small/denoiser",
    "cifar10_small/guide",
    "cifar10_small/judge",
    "cifar10_small/noise_level",
    "cifar10_small/time_gap_predictor",
    "cifar10_small/time_predictor",
    "digits/conditional_denoiser",
    "digits/denoiser",
    "digits/guidance_adapters",
    "digits/guide",
    "digits/judge",
    "digits/noise_level",
    "digits/noisy_guide",
    "digits/reward_tuned_denoiser",
    "digits/small_conditional_denoiser",
    "digits/time_gap_predictor",
    "digits/time_predictor",
    "digits/timestep_dropout_denoiser",
    "digits/velocity_denoiser",
    "digits/x0_denoiser",
    "latent_digits/autoencoder",
    "latent_digits/denoiser",
    "latent_digits/time_gap_predictor",
    "latent_digits/time_predictor",
    "molecules/denoiser",
    "molecules/guide",
    "molecules/judge",
    "molecules/noise_level",
    "molecules/time_gap_predictor",
    "molecules/time_predictor",
    "qm9_small/denoiser",
    "qm9_small/guide",
    "qm9_small/judge",
    "qm9_small/noise_level",
    "qm9_small/time_gap_predictor",
    "qm9_small/time_predictor",
    "toy/denoiser",
]
_CLEAN = {"autoencoder", "guide", "judge"}
NOISY = {name for name in SHIPPED if name.rpartition("/")[2] not in _CLEAN}


def _predictor(widths: tuple[int, ...] = (8, 8)) -> SimpleCNN:
    return SimpleCNN(sample_size=8, num_timesteps=20, widths=widths)


def _checkpoint(path: Path, network: nn.Module, schedule: NoiseSchedule | None) -> Path:
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights, CHECKPOINT_KEY: describe(network, schedule)}, path)
    return path


@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
@pytest.mark.parametrize(
    ("network", "schedule"),
    [
        pytest.param(_predictor(), LinearSchedule(20), id="time predictor"),
        pytest.param(MLPTimePredictor(num_timesteps=20, widths=(4,)), LinearSchedule(20), id="points"),
        pytest.param(ImageClassifier(widths=(8, 8)), None, id="classifier"),
    ],
)
def test_a_saved_network_comes_back(kind: str, network: Any, schedule: NoiseSchedule | None, tmp_path: Path) -> None:
    if kind == "folder":
        save_pretrained(tmp_path / "saved", network, schedule)
        source = tmp_path / "saved"
    else:
        source = _checkpoint(tmp_path / "last.ckpt", network, schedule)
    loaded = load_pretrained(source)
    assert type(loaded.network) is type(network)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    before, after = network.state_dict(), loaded.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k].nan_to_num(-1), after[k].nan_to_num(-1)) for k in before)
    if schedule is None:
        assert loaded.schedule is None
    else:
        assert loaded.schedule is not None
        assert torch.equal(loaded.schedule.alphas_cumprod, schedule.alphas_cumprod)


def test_a_folder_from_before_there_were_quantiles_loads_without_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_pretrained(tmp_path, _predictor(), None)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    del weights["nll_quantiles"]
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    assert load_pretrained(tmp_path).network.nll_quantiles.isnan().all()
    assert capfd.readouterr().err == ""
    del weights["head.bias"]
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing keys head\.bias"):
        load_pretrained(tmp_path)


def test_saving_again_replaces_the_folder_as_a_whole(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "saved", _predictor(), LinearSchedule(20))
    save_pretrained(tmp_path / "saved", ImageClassifier(widths=(8, 8)), None)
    assert load_pretrained(tmp_path / "saved").schedule is None
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_a_saved_network_does_not_tell_where_it_was_loaded_from(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "first", _predictor(), LinearSchedule(20))
    loaded = load_pretrained(tmp_path / "first")
    save_pretrained(tmp_path / "second", loaded.network, loaded.schedule)
    first, second = ((tmp_path / folder / "config.json").read_text() for folder in ("first", "second"))
    assert str(tmp_path) not in second
    assert first == second


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_load(name: str) -> None:
    loaded = load_pretrained(name)
    assert all(p.isfinite().all() for p in loaded.network.parameters())
    assert (loaded.schedule is not None) == (name in NOISY)


def test_shipped_networks_are_small_and_listed_here() -> None:
    root = Path(pretrained.__file__).parent
    assert sorted(str(p.parent.relative_to(root)) for p in root.rglob("config.json")) == SHIPPED
    limits = {
        "cifar10_small": 16e6,
        "digits": 9.4e6,
        "latent_digits": 2e6,
        "molecules": 4e6,
        "qm9_small": 12e6,
        "toy": 1e5,
    }
    for kind, most in limits.items():
        assert sum(p.stat().st_size for p in (root / kind).rglob("*") if p.is_file()) <= most


def test_an_unknown_name_lists_the_shipped_ones_of_its_kind_or_the_kinds() -> None:
    with pytest.raises(FileNotFoundError, match="no network under digits/nothing") as caught:
        load_pretrained("digits/nothing")
    assert all((name in str(caught.value)) == name.startswith("digits/") for name in SHIPPED)
    with pytest.raises(FileNotFoundError, match="such as digits/denoiser, of audio, cifar10_small, digits, "):
        load_pretrained("nothing/denoiser")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "readable checkpoint", id="empty"),
        pytest.param(b"no checkpoint at all", "not a checkpoint", id="text"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_pretrained(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "last.ckpt", _predictor(), LinearSchedule(20))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="readable checkpoint"):
        load_pretrained(path)


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not made by tag_lightning"):
        load_pretrained(tmp_path / "other.ckpt")
    torch.save({"weights": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="no state_dict"):
        load_pretrained(tmp_path / "bare.ckpt")
    torch.save({"state_dict": {}, "code": _predictor()}, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match="refused"):
        load_pretrained(tmp_path / "code.ckpt")


def test_networks_without_a_configuration_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no configuration to save"):
        describe(nn.Linear(1, 1), None)


def test_a_description_is_the_same_as_itself() -> None:
    same = describe(_predictor(), LinearSchedule(20))
    assert require_same(same, describe(_predictor(), LinearSchedule(20)), "the file") is None


def test_an_argument_that_a_class_gained_since_may_be_missing_if_it_has_its_default() -> None:
    old, network = describe(_predictor(), LinearSchedule(20)), _predictor()
    del old["config"]["conditions"]
    current = describe(network, LinearSchedule(20))
    assert require_same(old, current, "the file", constructor_defaults(network)) is None
    current["config"]["conditions"] = {"hue": 8}
    with pytest.raises(ValueError, match=r"conditions None there and \{'hue': 8\} here"):
        require_same(old, current, "the file", constructor_defaults(network))


@pytest.mark.parametrize(
    ("other", "schedule", "message"),
    [
        (ImageClassifier(widths=(8, 8)), None, "the file holds a SimpleCNN but a ImageClassifier is configured"),
        (_predictor((4, 4)), LinearSchedule(20), r"widths \[8, 8\] there and \[4, 4\] here"),
        (_predictor(), LinearSchedule(30), "the file has T = 20 timesteps but the configured schedule has 30"),
        (_predictor(), LinearSchedule(20, beta_end=0.03), "follow different noise schedules"),
    ],
)
def test_differences_are_named(other: nn.Module, schedule: NoiseSchedule | None, message: str) -> None:
    saved = describe(_predictor(), LinearSchedule(20))
    with pytest.raises(ValueError, match=message):
        require_same(saved, describe(other, schedule), "the file")


@pytest.mark.parametrize("content", [b"", b"no tensors at all", None], ids=["empty", "text", "half"])
def test_a_broken_schedule_is_named(content: bytes | None, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "net", _predictor(), LinearSchedule(20))
    file = tmp_path / "net" / "schedule.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"schedule\.safetensors is not a readable noise schedule"):
        load_pretrained(tmp_path / "net")


def test_a_schedule_file_of_something_else_is_named(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "net", _predictor(), LinearSchedule(20))
    save_file({"betas": torch.rand(20)}, tmp_path / "net" / "schedule.safetensors")
    with pytest.raises(ValueError, match=r"not a readable noise schedule.*alphas_cumprod"):
        load_pretrained(tmp_path / "net")


def test_a_truncated_network_is_named(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "net", _predictor(), None)
    (weights,) = (tmp_path / "net").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot load the network in"):
        load_pretrained(tmp_path / "net")


@pytest.mark.parametrize(("change", "named"), [({}, "missing keys head.bias"), ({"b": 0}, "unexpected keys b")])
def test_weights_of_another_network_are_refused(change: dict[str, int], named: str, tmp_path: Path) -> None:
    network = ImageClassifier(widths=(8, 8))
    save_pretrained(tmp_path / "one", network, None)
    weights = network.state_dict() | {name: torch.zeros(1) for name in change}
    if not change:
        weights.pop("head.bias")
    save_file(weights, tmp_path / "one" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"do not match the ImageClassifier of its config.json: {named}"):
        load_pretrained(tmp_path / "one")


def test_a_checkpoint_whose_parts_do_not_belong_together_is_named(tmp_path: Path) -> None:
    file = _checkpoint(tmp_path / "a.ckpt", _predictor(), LinearSchedule(20))
    whole = torch.load(file, weights_only=True)
    name = next(iter(whole["state_dict"]))
    broken = [
        whole | {"state_dict": {k: v for k, v in whole["state_dict"].items() if k != name}},
        whole | {CHECKPOINT_KEY: {"class": "SimpleCNN"}},
        whole | {CHECKPOINT_KEY: whole[CHECKPOINT_KEY] | {"config": {"sample_size": 8, "widths": 3}}},
    ]
    for content in broken:
        torch.save(content, file)
        with pytest.raises(ValueError, match=r"a\.ckpt"):
            load_pretrained(file)


@pytest.mark.parametrize("name", [["SimpleCNN"], 3, None])
def test_a_class_name_of_another_type_is_refused(name: Any, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "net", _predictor(), LinearSchedule(20))
    config = tmp_path / "net" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": name}))
    with pytest.raises(ValueError, match=r"which neither tag_lightning\.networks nor diffusers knows"):
        load_pretrained(tmp_path / "net")
