"""The Time-Gap of an arm, held to a time predictor whose answer is known and to the inputs of the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, LinearSchedule, NonFiniteError
from tag_lightning.evaluation import Arm, ArmResult, ArmSampler, SamplingTask
from tag_lightning.guidance import Corruption

TIMESTEPS, STEPS, SHAPE = 20, 5, (1, 4, 4)


class WatchedNetwork(nn.Module):
    """Predicts some noise, and remembers what it was shown at which timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, Tensor]] = []

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        (timestep,) = timesteps.unique().tolist()
        self.seen.append((timestep, x.detach().clone()))
        return 0.5 * x


class PlainTask(SamplingTask):
    """Images without targets or metrics."""

    sample_shape = SHAPE

    def space(self, indices: Sequence[int], device: torch.device) -> ImageSpace:
        return ImageSpace(SHAPE, indices, device)


class StubbornPredictor(nn.Module):
    """Says the same of every sample of a chunk but the first: of that, the timestep before."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits = torch.zeros(len(x), TIMESTEPS)
        logits[:, self.answer] = 1
        logits[0, self.answer - 1] = 2
        return logits


def draw(answer: int, arm: Arm) -> tuple[ArmResult, WatchedNetwork, StubbornPredictor]:
    """Four samples in chunks of two."""
    network, predictor = WatchedNetwork(), StubbornPredictor(answer)
    data = SimpleNamespace(sample_shape=SHAPE)
    sampler = ArmSampler(
        denoiser=Denoiser(network, LinearSchedule(TIMESTEPS), "epsilon"),
        solver=DDIM(),
        task=PlainTask().for_data(data).for_samples(4),
        time_gap_predictor=predictor,
        num_steps=STEPS,
        chunk_size=2,
        num_kept=4,
        progress=False,
    )
    return sampler.draw("the arm", arm), network, predictor


@pytest.mark.parametrize("answer", [1, 10, TIMESTEPS - 1])
@pytest.mark.parametrize("arm", [Arm(), Arm(num_steps=7), Arm(num_steps=TIMESTEPS)], ids=lambda arm: str(arm.num_steps))
def test_the_time_gap_is_the_distance_from_the_timestep_the_denoiser_was_told(answer: int, arm: Arm) -> None:
    result, network, _ = draw(answer, arm)
    told = [timestep for timestep, _ in network.seen]
    steps = arm.num_steps or STEPS
    assert told[:steps] == told[steps:]  # of both chunks
    # One of two samples is said to be at `answer`, the other one timestep before.
    expected = [(abs(answer - t) + abs(answer - 1 - t)) / 2 for t in told[:steps]]
    assert result.timesteps == told[:steps]
    assert result.gaps is not None
    assert result.gaps.tolist() == expected
    assert result.figures["time_gap"] == pytest.approx(sum(expected) / steps)


def test_nan_of_the_time_gap_predictor_names_arm_and_timestep(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = StubbornPredictor.forward

    def lost_at_the_last(self: StubbornPredictor, x: Tensor) -> Tensor:
        logits = answered(self, x)
        if len(self.seen) == STEPS:
            logits[1, 3] = torch.nan
        return logits

    monkeypatch.setattr(StubbornPredictor, "forward", lost_at_the_last)
    message = r"arm the arm: the time_gap_predictor returned NaN or infinity at timestep 3 for 1 of 2 samples"
    with pytest.raises(NonFiniteError, match=message):
        draw(3, Arm())


def test_steps_taken_again_count_once() -> None:
    once, _, _ = draw(3, Arm())
    again, network, _ = draw(3, Arm(recurrence=3))
    assert len(network.seen) == 2 * 3 * STEPS
    assert once.gaps is not None
    assert again.gaps is not None
    assert again.gaps.tolist() == once.gaps.tolist()
    assert again.figures["time_gap"] == once.figures["time_gap"]


def test_the_time_gap_predictor_sees_what_the_denoiser_sees() -> None:
    """Corruption included."""
    _, network, predictor = draw(3, Arm([Corruption(0.5)]))
    assert len(predictor.seen) == len(network.seen) == 2 * STEPS
    for measured, (_, shown) in zip(predictor.seen, network.seen, strict=True):
        assert torch.equal(measured, shown)
