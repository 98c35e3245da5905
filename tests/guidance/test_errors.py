"""A network that fails while sampling is named, with the timestep."""

import pytest
import torch
from problems import vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, LinearSchedule, NonFiniteError, Sampler
from tag_lightning.guidance import DPS, Condition, TemporalAlignment, TemporalAlignmentAfterStep, residual_norm

TARGET = torch.zeros(3, 2)


class Silent(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Spoilt(nn.Module):
    """Twenty logits, with ``value`` among those of the second sample from the given call on."""

    def __init__(self, value: float, from_call: int = 0, outputs: int = 20) -> None:
        super().__init__()
        self.value, self.countdown = value, from_call
        self.layer = nn.Linear(2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x)
        self.countdown -= 1
        if self.countdown < 0:
            output = output.index_put((torch.tensor([1]), torch.tensor([0])), torch.tensor(self.value))
        return output


class Steep(nn.Module):
    """Finite everywhere, with an infinite slope at zero."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return (x * 0).abs().sqrt().sum(1, keepdim=True) * torch.arange(self.outputs)


class SpoiltDenoiser(nn.Module):
    """Predicts no noise, but ``value`` for the second sample from ``timestep`` down."""

    def __init__(self, value: float, timestep: int) -> None:
        super().__init__()
        self.value, self.timestep = value, timestep

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        late = (timesteps <= self.timestep) & (torch.arange(len(x)) == 1)
        return torch.where(late[:, None], self.value, 0 * x)


def sample(*guidance: Guidance, network: nn.Module | None = None) -> None:
    sampler = Sampler(Denoiser(network or Silent(), LinearSchedule(20), "epsilon"), DDIM(), 5, guidance)
    assert sampler.timesteps == [19, 15, 11, 7, 3]
    sampler.sample(vector_space(range(3), dtype=torch.float32), seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("timestep", [19, 11, 3])
def test_a_denoiser_that_fails_is_named_with_the_timestep(value: float, timestep: int) -> None:
    """The last step included, whose samples would be handed out."""
    message = f"^the denoiser returned NaN or infinity at timestep {timestep} for 1 of 3 samples"
    with pytest.raises(NonFiniteError, match=message):
        sample(network=SpoiltDenoiser(value, timestep))


def test_guidance_is_not_blamed_for_what_the_denoiser_did() -> None:
    condition = Condition(nn.Identity(), TARGET, residual_norm)
    looks_ahead = TemporalAlignment(nn.Linear(2, 20), 0.1, [DPS(condition)])
    for guidance in (DPS(condition), TemporalAlignment(nn.Linear(2, 20), 0.1), looks_ahead):
        with pytest.raises(NonFiniteError, match=r"^the denoiser returned NaN or infinity at timestep 11 for 1 of 3"):
            sample(guidance, network=SpoiltDenoiser(float("nan"), 11))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_time_predictor_that_fails_is_named_with_the_timestep(value: float) -> None:
    message = "^the time predictor returned NaN or infinity at timestep 11 for 1 of 3 samples; check the weights"
    with pytest.raises(NonFiniteError, match=message):
        sample(TemporalAlignment(Spoilt(value, from_call=2), 0.1))


def test_a_time_predictor_that_fails_after_the_step_is_named_with_the_timestep_reached() -> None:
    with pytest.raises(NonFiniteError, match=r"^the time predictor returned NaN or infinity at timestep 7"):
        sample(TemporalAlignmentAfterStep(Spoilt(float("nan"), from_call=2), 0.1))


def test_a_guide_that_fails_is_named_with_the_timestep() -> None:
    guide = Spoilt(float("nan"), from_call=1, outputs=2)
    with pytest.raises(NonFiniteError, match=r"^the guide returned NaN or infinity at timestep 15 for 1 of 3 samples"):
        sample(DPS(Condition(guide, TARGET, residual_norm)))


def test_gradients_that_fail_are_named() -> None:
    with pytest.raises(NonFiniteError, match=r"^the gradient of the time predictor returned NaN or infinity at"):
        sample(TemporalAlignment(Steep(20), 0.1))
    with pytest.raises(NonFiniteError, match=r"^the gradient of the guide returned NaN or infinity at timestep 19"):
        sample(DPS(Condition(Steep(2), TARGET, residual_norm)))


def test_the_score_asked_for_alone_fails_the_same_way() -> None:
    with pytest.raises(NonFiniteError, match="timestep 4 for 1 of 3 samples"):
        TemporalAlignment(Spoilt(float("nan"))).time_linked_score(torch.randn(3, 2), 4)


def test_errors_are_arithmetic_errors() -> None:
    """So that callers need not know the library to catch them."""
    assert issubclass(NonFiniteError, ArithmeticError)


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (TemporalAlignment, 12),
        (TemporalAlignment, 19),
        (TemporalAlignment, 40),
        (TemporalAlignmentAfterStep, 12),
        (TemporalAlignmentAfterStep, 15),
        (TemporalAlignmentAfterStep, 21),
    ],
)
def test_a_predictor_of_another_schedule_is_refused(kind: type[TemporalAlignment], known: int) -> None:
    """A longer one as well: its gradient would point towards another noise level, without a sign of it."""
    message = f"knows {known} timesteps but the denoiser has 20; it must be trained with"
    with pytest.raises(ValueError, match=message):
        sample(kind(nn.Linear(2, known), 0.1))


def test_the_score_of_a_timestep_the_predictor_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="knows 12 timesteps but the sample is at 12"):
        TemporalAlignment(nn.Linear(2, 12)).time_linked_score(torch.randn(3, 2), 12)
