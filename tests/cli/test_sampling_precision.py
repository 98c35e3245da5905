"""``sampling.precision`` and ``sampling.compile``: what they touch, and that they touch nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from sampling_runs import tiny_data, tiny_task
from tiny_runs import TinyNetworks, predictor_arguments
from torch import Tensor, nn

from tag_lightning.cli import main
from tag_lightning.evaluation import Arm, ArmResult, compare
from tag_lightning.guidance import DPS, TemporalAlignment
from tag_lightning.networks import ImageClassifier, SimpleCNN

ARMS = (
    "--sampling.arms={unguided: {}, "
    "both: {guidance: [{class_path: TemporalAlignment, init_args: {strength: 0.1}}, {class_path: DPS}]}}"
)
COMPILED = {UNet2DModel, SimpleCNN, ImageClassifier}


def figures(run: Path, tiny: TinyNetworks, *more: str) -> dict[str, dict[str, float]]:
    weights = f"--ckpt_path={tiny.root / 'predictor'}"
    main(predictor_arguments("validate", run, tiny, ARMS, weights, *more))
    arms = json.loads((run / "results.json").read_text())["arms"]
    return {arm: {name: value for name, value in own.items() if name != "seconds"} for arm, own in arms.items()}


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> dict[type, set[torch.dtype]]:
    """The types in which the first layers of denoiser, time predictors and classifiers compute."""
    seen: dict[type, set[torch.dtype]] = {}
    for kind in COMPILED:
        forward = kind.forward

        def noted(network: nn.Module, x: Tensor, *args: Any, forward: Any = forward, **inputs: Any) -> Any:
            first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
            seen.setdefault(type(network), set()).add(first(x).dtype)
            return forward(network, x, *args, **inputs)

        monkeypatch.setattr(kind, "forward", noted)
    return seen


def test_mixed_precision_is_of_the_denoiser_alone(
    tiny: TinyNetworks, tmp_path: Path, types: dict[type, set[torch.dtype]]
) -> None:
    plain = figures(tmp_path / "plain", tiny)
    # The trainer's precision is of its own losses.
    assert figures(tmp_path / "trainer", tiny, "--trainer.precision=bf16-mixed") == plain
    types.clear()
    assert figures(tmp_path / "full", tiny, "--sampling.precision=32-true") == plain
    assert set().union(*types.values()) == {torch.float32}
    types.clear()
    mixed = figures(tmp_path / "mixed", tiny, "--sampling.precision=bf16-mixed")
    assert torch.bfloat16 in types[UNet2DModel]
    assert types[ImageClassifier] == types[SimpleCNN] == {torch.float32}
    assert mixed != plain
    assert all(abs(mixed[arm]["fid"] / plain[arm]["fid"] - 1) < 0.5 for arm in plain)


def test_networks_are_compiled_for_the_drawing_alone(
    tiny: TinyNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    compile_with = torch.compile

    def eager(forward: Callable[..., Any]) -> Callable[..., Any]:
        compiled.append(forward.__self__)
        return compile_with(forward, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    plain = figures(tmp_path / "plain", tiny)
    assert not compiled
    assert figures(tmp_path / "compiled", tiny, "--sampling.compile=true") == plain
    # One denoiser, the predictor that corrects and the one that measures, and the guide, but not the judge.
    assert sorted(type(network).__name__ for network in compiled) == [
        "ImageClassifier", "SimpleCNN", "SimpleCNN", "UNet2DModel"
    ]  # fmt: skip
    assert not any("forward" in vars(network) for network in compiled)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("precision=fp8", "sampling.precision must be one of 32-true, bf16-mixed, 16-mixed, got fp8"),
        ("precision=16-mixed", "sampling.precision 16-mixed is impractically slow on a CPU; choose bf16-mixed"),
        ("compile=maybe", "sampling.compile must be true or false, got maybe"),
    ],
)
def test_wrong_settings_are_named(
    setting: str, message: str, tiny: TinyNetworks, tmp_path: Path, error_of: Callable[..., str]
) -> None:
    arguments = predictor_arguments("validate", tmp_path, tiny, f"--sampling.{setting}")
    assert message in error_of(arguments, 1 if "16-mixed" in setting else 2)


def compared(tiny: TinyNetworks, arm: Arm | None = None, **settings: Any) -> ArmResult:
    sources = {"denoiser": tiny.root / "denoiser", "predictor": tiny.root / "predictor"}
    task = tiny_task(tiny).for_data(tiny_data())
    arms = {"arm": arm or Arm([TemporalAlignment(strength=0.1), DPS()])}
    common = {"num_samples": 4, "num_steps": 2, "chunk_size": 4, "progress": False}
    return compare(arms, task=task, **sources, **{**common, **settings})["arm"]  # type: ignore[arg-type]


def test_wrong_arguments_are_named(tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match=r"^precision must be one of 32-true, bf16-mixed, 16-mixed, got 'half'"):
        compared(tiny, precision="half")
    with pytest.raises(ValueError, match=r"^compile must be true or false, got 'inductor'"):
        compared(tiny, compile="inductor")


def test_a_network_that_cannot_be_compiled_is_one_line(tiny: TinyNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with = torch.compile

    def broken(*_: Any) -> Any:
        raise NotImplementedError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", lambda forward: compile_with(forward, backend=broken))
    with pytest.raises(ValueError, match=r"^compile is true, but torch.compile failed on a network: .*; set it") as e:
        compared(tiny, compile=True)
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_a_compiled_denoiser_draws_nearly_the_same(tiny: TinyNetworks) -> None:
    plain, compiled = (compared(tiny, Arm(), compile=chosen).samples for chosen in (False, True))
    torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
