"""Steps do not make the host wait for an accelerator: shown on tensors without values, and by counting reads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from problems import DeviceNoiseSpace
from test_pairs import NAMES, SCHEDULE, TOTAL, WORLDS, World
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tag_lightning.diffusion import (
    DDIM,
    CounterNoise,
    DeferredChecks,
    Denoiser,
    ImageSpace,
    LinearSchedule,
    PointCloudSpace,
    PolynomialSchedule,
    Sampler,
    on_device,
)
from tag_lightning.guidance import (
    DPS,
    Condition,
    FixedLengthSteps,
    Guidance,
    RegressedNoise,
    Retiming,
    SquaredError,
    TemporalAlignment,
    further_denoiser,
    tag,
)
from tag_lightning.networks import (
    EGNNDenoiser,
    EGNNPropertyPredictor,
    EGNNTimePredictor,
    ImageClassifier,
    NoiseLevelCNN,
    SimpleCNN,
)

DEVICE = torch.device("meta")
# Its number of calls depends on the samples, as its documentation says.
READING = {"AdaptiveGuidance"}
# Molecules differ from images in the space alone.
OF_MOLECULES = {"plain", "DPS", "FixedLengthSteps", "TemporalAlignment", "TimeShift"}
CASES = [(name, "images") for name in ("plain", *NAMES) if name not in READING]
CASES += [(name, "molecules") for name in sorted(OF_MOLECULES)]


class WaitingCopies(TorchDispatchMode):
    """Fails on copies from the host that wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            places = {each.device.type for each in tree_leaves((args, answer)) if isinstance(each, Tensor)}
            waits = not kwargs.get("non_blocking") and True not in args[2:]
            assert not (waits and places == {"cpu", DEVICE.type}), "a copy from the host that waits"
        return answer


class WaitingNumbers(TorchFunctionMode):
    """Fails on numbers of Python that become tensors on the host and are copied to the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            assert torch.device(kwargs.get("device") or "cpu").type == "cpu", "a number copied from the host"
        if func is Tensor.new_tensor:
            assert args[0].device.type == "cpu", "a number copied from the host"
        return func(*args, **kwargs)


class Reads(TorchFunctionMode):
    """Counts how often Python asks for the values of tensors."""

    asking = frozenset({Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.nonzero}) | frozenset(
        {Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__}
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.asking
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    """Small random networks on the device; the target of the condition stays on the host."""
    found = {
        "images": World(4, lambda: ImageSpace((1, 2, 2), range(2), DEVICE)),
        "molecules": World(16, lambda: PointCloudSpace([3, 4], 1, range(2), DEVICE)),
    }
    for world in found.values():
        world.denoiser, world.worse = copy.deepcopy(world.denoiser), copy.deepcopy(world.worse)  # not their schedule
        for network in (world.denoiser, world.predictor, world.regressor, world.worse, world.condition.predictor):
            network.to(DEVICE)
        world.predictor.typical_nll = world.predictor.typical_nll.to(DEVICE)
    return found


@pytest.fixture
def no_reads_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what a run reads once or every ten steps. Draws have a test of their own."""
    monkeypatch.setattr(DeferredChecks, "settle", lambda self: self._open.clear())
    monkeypatch.setattr(Sampler, "_alpha_bars", SCHEDULE.alphas_cumprod.tolist())
    monkeypatch.setattr(further_denoiser, "require_same_schedule", lambda *_: None)
    monkeypatch.setattr(tag, "measured_timesteps", lambda mean, rows: [[True] * TOTAL])
    monkeypatch.setattr(CounterNoise, "_normals", lambda self, count: torch.empty(2, count, device=DEVICE))


@pytest.mark.usefixtures("no_reads_on_purpose")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_no_step_waits_for_the_device(name: str, kind: str, worlds: dict[str, World]) -> None:
    """Whatever reads a value fails on tensors of ``meta``, which have none."""
    world = worlds[kind]
    sampler = Sampler(world.denoiser, DDIM(1.0), 2, [world.shipped[name]] if name != "plain" else [])
    space = world.space()
    space.denoiser_inputs = {label: value.to(DEVICE) for label, value in space.denoiser_inputs.items()}
    with WaitingCopies(), WaitingNumbers():
        assert sampler.sample(space, 0).device == DEVICE


@pytest.mark.usefixtures("no_reads_on_purpose")
def test_no_network_of_a_guided_image_waits_for_the_device() -> None:
    narrow: dict[str, Any] = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, **narrow)
    predictor, level = SimpleCNN(8, 1, TOTAL, widths=(8, 8)), NoiseLevelCNN(1, TOTAL, widths=(8, 8, 8))
    guide = ImageClassifier(1, 3, widths=(8, 8))
    denoiser = Denoiser(unet, LinearSchedule(TOTAL), "epsilon").to(DEVICE)
    condition = Condition(guide.to(DEVICE), torch.tensor([0, 2]))
    arm = [TemporalAlignment(predictor.to(DEVICE)), Retiming(RegressedNoise(level.to(DEVICE))), DPS(condition)]
    with WaitingCopies(), WaitingNumbers():
        assert Sampler(denoiser, DDIM(1.0), 2, arm).sample(ImageSpace((1, 8, 8), range(2), DEVICE), 0).device == DEVICE


@pytest.mark.usefixtures("no_reads_on_purpose")
def test_no_network_of_a_guided_molecule_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know ``meta``
    small: dict[str, Any] = {"num_features": 2, "width": 8}
    predictor = EGNNTimePredictor(num_timesteps=TOTAL, num_layers=1, **small).to(DEVICE)
    guide = EGNNPropertyPredictor(("alpha",), num_layers=1, **small).to(DEVICE)
    network = EGNNDenoiser(num_timesteps=TOTAL, num_blocks=1, **small)
    condition = Condition(guide, torch.ones(2, 1), SquaredError(torch.tensor([2.0])))
    arm = [TemporalAlignment(predictor), FixedLengthSteps(DPS(condition))]
    sampler = Sampler(Denoiser(network, PolynomialSchedule(TOTAL), "epsilon").to(DEVICE), DDIM(1.0), 2, arm)
    with WaitingCopies(), WaitingNumbers():
        assert sampler.sample(PointCloudSpace([3, 4], 2, range(2), DEVICE), 0).device == DEVICE


def test_no_draw_waits_for_the_device() -> None:
    source = CounterNoise(0, [3, 1], 5, DEVICE)
    with WaitingCopies(), WaitingNumbers():
        for _ in range(2):
            drawn = [source.batch((2, 3)), *source.normal([(2, 3), (4, 3)]), source.integers(7)]
            assert all(each.device == DEVICE for each in drawn)


def test_the_guards_see_what_waits() -> None:
    host, device = torch.ones(2), torch.ones(2, device=DEVICE)
    for waits in (lambda: host.to(DEVICE), lambda: device.copy_(host), lambda: host.to(device)):
        with WaitingCopies(), pytest.raises(AssertionError, match="a copy from the host that waits"):
            waits()
    for waits in (
        lambda: torch.tensor(1.0, device=DEVICE),
        lambda: torch.as_tensor(1, device=DEVICE),
        lambda: device.new_tensor(1.0),
    ):
        with WaitingNumbers(), pytest.raises(AssertionError, match="a number copied"):
            waits()
    with WaitingCopies(), WaitingNumbers():
        assert on_device(host, DEVICE).device == on_device(2.5, DEVICE).device == DEVICE
    with Reads() as reads:
        _ = host[0].item(), host.tolist(), bool(host[0]), float(host[0]), int(host[0]), host.numpy()
    assert reads.count >= 6


@pytest.mark.parametrize(("value", "dtype"), [(3, torch.int64), (2.5, torch.float32), (2.5, torch.float64)])
def test_a_number_becomes_a_tensor_of_the_type_asked_for(value: float, dtype: torch.dtype) -> None:
    made = on_device(value, torch.device("cpu"), None if dtype != torch.float64 else dtype)
    assert (made.dtype, made.shape, made.item()) == (dtype, (), value)


@pytest.mark.parametrize("names", ["plain", "dps", "tag", "tag dps", "tag fixed"])
def test_reads_of_a_run_do_not_grow_with_its_steps(names: str) -> None:
    """Beside the checks, one transfer every ten steps."""
    world = WORLDS["images"]
    condition, predictor = world.condition, world.predictor
    known: dict[str, Guidance] = {
        "dps": DPS(condition),
        "fixed": FixedLengthSteps(DPS(condition)),
        "tag": TemporalAlignment(predictor),  # with its default strength, which reads what was measured
    }
    guidance: Sequence[Guidance] = [known[name] for name in names.split() if name != "plain"]
    counts = []
    for steps in (4, 9, 19):
        space = DeviceNoiseSpace((1, 2, 2), range(2))
        space.denoiser_inputs = world.space().denoiser_inputs
        with Reads() as reads:
            Sampler(world.denoiser, DDIM(1.0), steps, guidance).sample(space, 0)
        counts.append(reads.count)
    assert counts[0] == counts[1] == counts[2] - 1
    assert counts[0] == 3 + ("tag" in names)  # the schedule, what was measured, the first check and the last
