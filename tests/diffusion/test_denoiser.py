from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import PREDICTION_KEY, Denoiser, LinearSchedule


class Recorder(nn.Module):
    """Predicts half the sample and remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, dict[str, Tensor]]] = []

    def forward(self, x: Tensor, timesteps: Tensor, **inputs: Tensor) -> Tensor:
        self.calls.append((timesteps, inputs))
        return x / 2


def test_prediction_is_consistent_with_the_sample() -> None:
    schedule, x = LinearSchedule(100), torch.randn(5, 3, 4, 4, dtype=torch.float64)
    timesteps = torch.tensor([0, 10, 50, 98, 99])
    prediction = Denoiser(Recorder(), schedule, "epsilon")(x, timesteps)
    torch.testing.assert_close(schedule.add_noise(prediction.x0, prediction.epsilon, timesteps), x)


def test_one_timestep_serves_the_whole_batch() -> None:
    denoiser, x = Denoiser(network := Recorder(), LinearSchedule(100), "epsilon"), torch.randn(4, 2)
    for timestep in (7, torch.tensor(7), torch.full((4,), 7)):
        denoiser(x, timestep)
        assert network.calls[-1][0].tolist() == [7, 7, 7, 7]


def test_further_inputs_reach_the_network() -> None:
    denoiser, mask = Denoiser(network := Recorder(), LinearSchedule(100), "epsilon"), torch.ones(4)
    denoiser(torch.randn(4, 2), 0, mask=mask)
    assert network.calls[-1][1]["mask"] is mask


def test_outputs_of_diffusers_are_unwrapped() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=x / 2)

    x = torch.randn(4, 2)
    plain, wrapped = (Denoiser(network, LinearSchedule(100), "epsilon")(x, 3) for network in (Recorder(), Wrapped()))
    torch.testing.assert_close(plain.x0, wrapped.x0, rtol=0, atol=0)


def test_a_network_that_also_predicts_the_variance_is_refused() -> None:
    class TwoHeads(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            return torch.cat([x, x], 1)

    with pytest.raises(ValueError, match=r"shape \[4, 6, 8, 8\] for samples of shape \[4, 3, 8, 8\]; its out_channels"):
        Denoiser(TwoHeads(), LinearSchedule(100), "epsilon")(torch.randn(4, 3, 8, 8), 3)


@pytest.mark.parametrize("timestep", [0, 50, torch.tensor([3, 20, 60, 99])], ids=["0", "50", "each"])
def test_all_prediction_types_mean_the_same(timestep: Tensor | int) -> None:
    """A network of each type that knows the clean sample and the noise, held to both."""
    schedule = LinearSchedule(100)
    x0, epsilon = torch.randn(2, 4, 3, dtype=torch.float64).unbind()
    signal, noise = schedule.signal_and_noise(x0, timestep)
    x = signal * x0 + noise * epsilon
    outputs = {"epsilon": epsilon, "sample": x0, "v_prediction": signal * epsilon - noise * x0}
    for prediction_type, output in outputs.items():

        class Knows(nn.Module):
            def forward(self, x: Tensor, timesteps: Tensor, output: Tensor = output) -> Tensor:
                return output

        prediction = Denoiser(Knows(), schedule, prediction_type)(x, timestep)
        torch.testing.assert_close(prediction.x0, x0)
        torch.testing.assert_close(prediction.epsilon, epsilon)


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="one of epsilon, sample, v_prediction, got 'score'"):
        Denoiser(nn.Identity(), LinearSchedule(100), "score")  # type: ignore[arg-type]


class Records(nn.Module):
    """A network that remembers what it was trained to predict."""

    def __init__(self, prediction_type: str) -> None:
        super().__init__()
        self.config = {PREDICTION_KEY: prediction_type}


def test_the_quantity_that_a_network_records_is_its_prediction_type() -> None:
    assert Denoiser(Records("sample"), LinearSchedule(100)).prediction_type == "sample"
    with pytest.raises(ValueError, match="trained to predict sample, not epsilon"):
        Denoiser(Records("sample"), LinearSchedule(100), "epsilon")


def test_a_prediction_type_is_never_guessed() -> None:
    with pytest.raises(ValueError, match="prediction_type of the Identity is unknown: give one of epsilon, sample"):
        Denoiser(nn.Identity(), LinearSchedule(100))
