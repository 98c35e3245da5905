"""EDM's state files give the noise that EDM's own network sees, at EDM's own noise levels."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from edm_reference import edm_noise, edm_weights, polynomial_gamma
from torch import Tensor

from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.datamodules.base import Split
from tag_lightning.diffusion import DDIM, Denoiser, PointCloudSpace, PolynomialSchedule, Sampler
from tag_lightning.evaluation import Arm, MoleculeTask, compare
from tag_lightning.evaluation.networks import load_denoiser
from tag_lightning.networks import EGNNDenoiser
from tag_lightning.pretrained import load_pretrained, save_pretrained

STEPS, FEATURES = 50, 6


def _folder(root: Path, context: int = 0, name: str = "generative_model_ema.npy", **arguments: Any) -> Path:
    root.mkdir(exist_ok=True)
    torch.save(edm_weights(FEATURES, context, 16, 3, STEPS), root / name)
    # As EDM's command line leaves them.
    published = {"tanh": True, "attention": True, "norm_constant": 1, "inv_sublayers": 1, "model": "egnn_dynamics"}
    published |= {"normalize_factors": [1, 4, 10], "include_charges": True, "context_node_nf": context}
    with (root / "args.pickle").open("wb") as file:
        pickle.dump(argparse.Namespace(**published | arguments), file)
    return root


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("divisor", [1, 100])
def test_outputs_are_those_of_the_published_network(context: int, divisor: int, tmp_path: Path) -> None:
    loaded = load_pretrained(_folder(tmp_path / "edm", context, normalization_factor=divisor))
    network, sizes = loaded.network.double(), (5, 3)
    space = PointCloudSpace(sizes, FEATURES, range(2), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = space.project(torch.randn(2, 5, 3 + FEATURES, generator=generator, dtype=torch.float64))
    given = torch.randn(2, context, generator=generator, dtype=torch.float64) if context else None
    weights = torch.load(tmp_path / "edm" / "generative_model_ema.npy")
    for timestep in (0, 20, STEPS):
        inputs = {} if given is None else {"context": given}
        output = network(x, torch.full((2,), timestep), space.mask, **inputs)
        for k, size in enumerate(sizes):
            row = None if given is None else given[k]
            expected = edm_noise(weights, x[k, :size], timestep / STEPS, row, divisor)
            torch.testing.assert_close(output[k, :size], expected, rtol=1e-5, atol=1e-5)
        assert not output[1, 3:].any()


def test_noise_levels_begin_with_z_0(tmp_path: Path) -> None:
    schedule = load_pretrained(_folder(tmp_path / "edm")).schedule
    assert schedule is not None
    gamma = torch.from_numpy(polynomial_gamma(STEPS))
    exact = PolynomialSchedule(STEPS, data_level=True).alphas_cumprod
    torch.testing.assert_close(exact, (-gamma).sigmoid(), rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.alphas_cumprod, exact, rtol=1e-5, atol=0)  # stored in float32
    assert 1 - float(exact[0]) == pytest.approx(1e-5)
    torch.testing.assert_close(exact[1:], PolynomialSchedule(STEPS).alphas_cumprod, rtol=1e-13, atol=0)


@pytest.mark.parametrize("context", [0, 2])
def test_every_tensor_is_used_once(context: int, tmp_path: Path) -> None:
    """The network holds every number of the file exactly once, the schedule those of gamma.

    But for the rows of time and context, which EDM's own network cuts off, and the empty buffer.
    """
    folder = _folder(tmp_path / "edm", context)
    weights = torch.load(folder / "generative_model_ema.npy")
    begin = 1
    for name in set(weights) - {"gamma.gamma", "buffer"}:
        numbered = torch.arange(begin, begin + weights[name].numel(), dtype=torch.float32)
        begin, weights[name] = begin + len(numbered), numbered.view(weights[name].shape)
    torch.save(weights, folder / "generative_model_ema.npy")
    loaded = load_pretrained(folder)
    own = ("context_mean", "context_spread")
    used = torch.cat([value.flatten() for name, value in loaded.network.state_dict().items() if name not in own])
    assert loaded.schedule is not None
    assert loaded.schedule.num_timesteps == weights.pop("gamma.gamma").numel()
    for name in ("weight", "bias"):
        weights[f"dynamics.egnn.embedding_out.{name}"] = weights[f"dynamics.egnn.embedding_out.{name}"][:FEATURES]
    del weights["buffer"]
    # Columns for whether each property is known, which EDM does not tell.
    expected = torch.cat([value.flatten() for value in weights.values()] + [torch.zeros(16 * context)])
    assert torch.equal(used.sort().values, expected.sort().values)


@pytest.mark.parametrize(
    "lost", ["gamma.gamma", "embedding.bias", "embedding_out.weight", "e_block_1.gcl_0.att_mlp.0.bias"]
)
def test_a_missing_or_further_tensor_is_named(lost: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "edm")
    weights = torch.load(folder / "generative_model_ema.npy")
    name = lost if lost in weights else f"dynamics.egnn.{lost}"
    for changed, message in (
        ({key: value for key, value in weights.items() if key != name}, f"it lacks {name}"),
        (weights | {f"{name}s": torch.ones(1)}, f"nothing corresponds to its {name}s"),
    ):
        torch.save(changed, folder / "generative_model_ema.npy")
        expected = "its noise schedule was learned" if message == "it lacks gamma.gamma" else message
        with pytest.raises(ValueError, match=re.escape(expected)) as caught:
            load_pretrained(folder)
        assert "\n" not in str(caught.value)


def test_the_folder_and_each_file_are_sources(tmp_path: Path) -> None:
    folder = _folder(_folder(tmp_path / "edm"), name="generative_model.npy")
    (folder / "args.pickle").rename(folder / "args_20.pickle")
    (folder / "generative_model.npy").rename(folder / "generative_model_20.npy")
    assert isinstance(load_pretrained(folder / "generative_model_20.npy").network, EGNNDenoiser)
    with pytest.raises(ValueError, match=r"args\.pickle does not exist, and the weights of EDM"):
        load_pretrained(folder)


def test_it_samples_and_is_saved_as_a_network_of_ours(tmp_path: Path) -> None:
    loaded = load_pretrained(_folder(tmp_path / "edm"))
    space = PointCloudSpace((4, 3), FEATURES, range(2))
    sample = Sampler(Denoiser(*loaded), DDIM(), 5).sample(space, 0)
    assert sample.isfinite().all()
    save_pretrained(tmp_path / "ours", loaded.network, loaded.schedule)
    assert torch.equal(Sampler(Denoiser(*load_pretrained(tmp_path / "ours")), DDIM(), 5).sample(space, 0), sample)


def test_a_conditional_network_needs_its_context(tmp_path: Path) -> None:
    loaded = load_pretrained(_folder(tmp_path / "edm", context=1))
    space = PointCloudSpace((3,), FEATURES, range(1))
    with pytest.raises(ValueError, match="is conditioned on 1 properties, got a context of 0; pass context"):
        Denoiser(*loaded)(torch.zeros(1, 3, 3 + FEATURES), 3, **space.inputs)
    assert Denoiser(*loaded)(torch.zeros(1, 3, 3 + FEATURES), 3, **space.inputs, context=torch.zeros(1, 1))


@pytest.mark.parametrize(("dataset", "split"), [("qm9", "train"), ("qm9_second_half", "val")])
def test_a_comparison_tells_a_conditional_network_its_property(
    dataset: str, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In units of its mean and mean absolute deviation over the split that EDM took."""
    folder = _folder(tmp_path / "edm", context=1, conditioning=["alpha"], dataset=dataset)
    data = SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, feature_scale=4.0, charge_scale=10.0)
    task = MoleculeTask().for_data(data)
    heard, columns = [], EGNNDenoiser._context_columns

    def overheard(network: EGNNDenoiser, context: Tensor | None) -> list[Tensor]:
        heard.append(columns(network, context)[0])
        return columns(network, context)

    monkeypatch.setattr(EGNNDenoiser, "_context_columns", overheard)
    results = compare({"told": Arm()}, folder, task, num_samples=4, num_steps=2, chunk_size=4, progress=False)
    assert results["told"].samples.isfinite().all()
    bound = task.for_samples(4)
    asked = bound.attributes(bound.order(), torch.device("cpu"))["alpha"]
    values = data.table(split).attributes["alpha"]
    mean = values.mean()
    torch.testing.assert_close(heard[-1][:, 0], (asked - mean) / (values - mean).abs().mean())


def test_the_property_that_a_conditional_network_is_told_must_be_there(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "edm", context=1, conditioning=["Cv"])
    data = SmallMoleculesDataModule(max_heavy_atoms=2, cache=None, feature_scale=4.0, charge_scale=10.0)
    with pytest.raises(ValueError, match=r"edm is told 'cv', which the data do not carry; add it to data\.init_args"):
        load_denoiser(folder, data.example, data)
    loaded = load_pretrained(folder)
    denoiser = Denoiser(*loaded)
    with pytest.raises(ValueError, match=r"no mean and spread of the property that it is told; call its network's"):
        load_denoiser(denoiser, data.example, data)
    loaded.network.measure_context(torch.tensor([1.0, 3.0]))
    assert load_denoiser(denoiser, data.example, data) is denoiser
    save_pretrained(tmp_path / "ours", loaded.network, loaded.schedule)
    assert load_denoiser(Denoiser(*load_pretrained(tmp_path / "ours")), data.example, data)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tanh": False}, "has tanh False, but EGNNDenoiser is built for True only"),
        ({"inv_sublayers": 2}, "has inv_sublayers 2"),
        ({"norm_constant": 0}, "has norm_constant 0"),
        ({"aggregation_method": "mean"}, "has aggregation_method mean"),
        ({"model": "gnn_dynamics"}, "has model gnn_dynamics"),
        ({"normalization_factor": 0}, "is not a model of EDM"),
    ],
)
def test_other_architectures_are_refused(arguments: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        load_pretrained(_folder(tmp_path / "edm", **arguments))


class Code:
    """Creates a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_either_file_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "edm", evil=Code(tmp_path / "executed"))
    with pytest.raises(ValueError, match=r"args\.pickle holds more than EDM's arguments.*it holds a posix\.mkdir"):
        load_pretrained(folder)
    _folder(tmp_path / "edm")
    torch.save({"weights": Code(tmp_path / "executed")}, folder / "generative_model_ema.npy")
    with pytest.raises(ValueError, match="holds more than weights and plain values"):
        load_pretrained(folder)
    assert not (tmp_path / "executed").exists()
    for content in (b"", b"nothing", pickle.dumps([1, 2])):
        (folder / "args.pickle").write_bytes(content)
        with pytest.raises(ValueError, match=r"args\.pickle (holds more than|must hold) EDM's arguments"):
            load_pretrained(folder)


def test_a_comparison_draws_from_it(tmp_path: Path) -> None:
    """With the atomic number as a sixth column, which decoding ignores."""
    data = SmallMoleculesDataModule(max_heavy_atoms=2, cache=None, feature_scale=4.0, charge_scale=10.0)
    assert data.network_arguments["num_features"] == FEATURES
    task = MoleculeTask().for_data(data)
    results = compare({"unguided": Arm()}, _folder(tmp_path / "edm"), task, num_samples=4, num_steps=3)
    assert results["unguided"].samples.shape[-1] == 3 + FEATURES
    plain = MoleculeTask().for_data(SmallMoleculesDataModule(max_heavy_atoms=2, cache=None))
    with pytest.raises(ValueError, match=r"denoiser .* cannot take samples of shape"):
        compare({"unguided": Arm()}, _folder(tmp_path / "edm"), plain, num_samples=4, num_steps=3)


def test_samples_carry_the_atomic_number() -> None:
    encoding = MoleculeEncoding((1, 6, 7, 8, 9), 4.0, 10.0)
    numbers, positions = torch.tensor([[9, 1, 0]]), torch.randn(1, 3, 3)
    x = encoding.encode(numbers, positions)
    assert x[0, :, -1].tolist() == pytest.approx([0.9, 0.1, 0.0])
    assert x[0, 0, 3:8].tolist() == [0.0, 0.0, 0.0, 0.0, 0.25]
    # 0.9 is the largest column of fluorine, but not that of an element.
    decoded, _ = encoding.decode(x, numbers > 0)
    assert torch.equal(decoded, numbers)
