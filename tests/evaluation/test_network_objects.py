"""Networks that a comparison is given as objects, without the schedule that a file tells."""

from __future__ import annotations

from typing import Any

import pytest
from sampling_runs import tiny_data, tiny_task
from tiny_runs import SIZE, TIMESTEPS, TinyNetworks
from torch import Tensor, nn

from tag_lightning.evaluation import Arm, compare
from tag_lightning.networks import NoiseLevelCNN, SimpleCNN


class PlainPredictor(nn.Module):
    """A time predictor that does not say how many timesteps it knows."""

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIZE * SIZE, num_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def drawn(tiny: TinyNetworks, **networks: Any) -> Any:
    settings = {"num_samples": 2, "num_steps": 1, "progress": False}
    return compare(
        {"plain": Arm()}, tiny.root / "denoiser", tiny_task(tiny).for_data(tiny_data()), **settings, **networks
    )


@pytest.mark.parametrize("role", ["predictor", "time_gap_predictor"])
@pytest.mark.parametrize("longer", [-1, 5])
def test_a_time_predictor_of_another_length_is_refused(role: str, longer: int, tiny: TinyNetworks) -> None:
    total = TIMESTEPS + longer
    for network in (SimpleCNN(SIZE, num_timesteps=total, widths=(8, 8)), PlainPredictor(total)):
        message = (
            rf"^{role} \({type(network).__name__}\) has T = {total} timesteps but the denoiser has {TIMESTEPS}; give"
        )
        with pytest.raises(ValueError, match=message):
            drawn(tiny, **{role: network})
    assert drawn(tiny, **{role: PlainPredictor(TIMESTEPS)})["plain"].gaps is not None


def test_a_regressor_of_the_noise_of_another_length_is_refused(tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match=rf"^noise_level \(NoiseLevelCNN\) has T = 7 timesteps but .* {TIMESTEPS}"):
        drawn(tiny, noise_level=NoiseLevelCNN(num_timesteps=7))
