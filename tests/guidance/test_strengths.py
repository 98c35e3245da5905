"""How far TAG moves: each rule against its formula, and on inputs that no formula foresees."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import UNEVEN, exact_denoiser, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, LinearSchedule, NonFiniteError, Sampler, Step
from tag_lightning.guidance import (
    ConstantStrength,
    Evidence,
    NoiseProportionalStrength,
    PolyakStrength,
    Strength,
    TemporalAlignment,
)
from tag_lightning.networks import MLPTimePredictor

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
TIMESTEP = 60
NOISE_POWER = 1 - float(SCHEDULE.alphas_cumprod[TIMESTEP])


def step_of(count: int, dim: int = 2) -> Step:
    return step_at(SCHEDULE, vector_space(range(count), dim), TIMESTEP, 50)


def evidence(nll: list[float], score: Tensor, typical: float | None) -> Evidence:
    typical_nll = None if typical is None else torch.tensor(typical, dtype=torch.float64)
    return Evidence(torch.tensor(nll, dtype=torch.float64), score, typical_nll)


def test_constant_and_proportional_strength_follow_their_formulas() -> None:
    seen = evidence([1.0, 2.0], random_vectors(2, 2), None)
    assert ConstantStrength(0.3)(seen, step_of(2)) == 0.3
    assert NoiseProportionalStrength(0.3)(seen, step_of(2)) == pytest.approx(0.3 * NOISE_POWER)


def test_polyak_moves_as_far_as_a_linear_model_says() -> None:
    score = torch.tensor([[3.0, 4.0], [0.0, 20.0]], dtype=torch.float64)
    omega = PolyakStrength(cap=100)(evidence([2.5, 7.0], score, 2.0), step_of(2))
    torch.testing.assert_close(omega, torch.tensor([0.5 / 25, 5.0 / 400], dtype=torch.float64))


def test_polyak_reaches_the_typical_likelihood_of_a_linear_predictor() -> None:
    slope = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    omega = PolyakStrength(cap=100)(evidence([5.0], slope, 3.5), step_of(1))
    moved_by = (omega[:, None] * slope * slope).sum()
    assert float(5.0 - moved_by) == pytest.approx(3.5)


def test_polyak_stops_at_its_cap() -> None:
    score = 1e-3 * random_vectors(5, 3)
    omega = PolyakStrength(cap=0.2)(evidence([9.0] * 5, score, 1.0), step_of(5, dim=3))
    lengths = (omega[:, None] * score).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.2 * math.sqrt(3 * NOISE_POWER)))


@settings(deadline=None, max_examples=200)
@given(
    nll=st.floats(0, 1e6),
    typical=st.floats(0, 1e6),
    score=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
    cap=st.just(0.0) | st.floats(1e-6, 10),
)
def test_no_polyak_move_is_longer_than_its_cap(nll: float, typical: float, score: list[float], cap: float) -> None:
    direction = torch.tensor([score], dtype=torch.float64)
    omega = PolyakStrength(cap)(evidence([nll], direction, typical), step_of(1, dim=3))
    # A norm would square what may be too small for it.
    move = math.hypot(*(omega[:, None] * direction)[0].tolist())
    assert move <= cap * math.sqrt(3 * NOISE_POWER) * (1 + 1e-9)
    assert omega >= 0
    if nll <= typical:
        assert move == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-38, 1e-30, 1e-12])
def test_a_saturated_predictor_moves_nothing_out_of_bounds(size: float, dtype: torch.dtype) -> None:
    """A dead network has no gradient although its likelihood is poor."""
    space = ImageSpace((3, 64, 64), range(2), dtype=dtype)
    score = torch.full((2, 3, 64, 64), size, dtype=dtype)
    seen = Evidence(torch.full((2,), 50.0, dtype=dtype), score, torch.tensor(1.0))
    omega = PolyakStrength()(seen, step_at(SCHEDULE, space, TIMESTEP, 50))
    move = omega.reshape(2, 1, 1, 1) * score
    longest = 0.3 * math.sqrt(3 * 64 * 64 * NOISE_POWER)
    assert bool((move.flatten(1).norm(dim=1) <= longest * 1.001).all())


def test_polyak_without_a_measured_likelihood_is_refused() -> None:
    space = vector_space(range(3), dtype=torch.float32)
    for predictor in (nn.Linear(2, 100), MLPTimePredictor(2, 100)):
        alignment = TemporalAlignment(predictor, PolyakStrength())
        with pytest.raises(ValueError, match="measured typical_nll: validate it once"):
            alignment.correct(torch.randn(3, 2), step_at(SCHEDULE, space, 5, 4), exact_denoiser(UNEVEN, SCHEDULE))


def test_polyak_reads_the_likelihood_of_the_timestep_at_hand() -> None:
    predictor = MLPTimePredictor(2, 100)
    predictor.typical_nll[TIMESTEP] = 1e6
    alignment, x = TemporalAlignment(predictor), torch.randn(3, 2)
    space, predict = vector_space(range(3), dtype=torch.float32), exact_denoiser(UNEVEN, SCHEDULE)
    moved = alignment.correct(x, step_at(SCHEDULE, space, TIMESTEP, 50), predict)
    torch.testing.assert_close(moved, x, rtol=0, atol=0)
    with pytest.raises(ValueError, match="typical_nll"):
        alignment.correct(x, step_at(SCHEDULE, space, TIMESTEP + 1, 50), predict)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("rule", [ConstantStrength, NoiseProportionalStrength, PolyakStrength])
def test_strengths_that_would_move_backwards_are_refused(rule: type[Strength], value: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number of at least 0"):
        rule(value)


def test_a_negative_number_as_strength_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strength must be a finite number of at least 0, got -0\.5"):
        TemporalAlignment(nn.Linear(2, 100), -0.5)


def _sample_with(rule: Callable[[Evidence, Step], Any]) -> Tensor:
    """Five steps from timestep 99 on, of three samples with two coordinates, ``[3, 2]``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guidance = TemporalAlignment(MLPTimePredictor(2, num_timesteps=100), rule)
    sampler = Sampler(Denoiser(Silent(), SCHEDULE, "epsilon"), DDIM(), 5, [guidance])
    return sampler.sample(vector_space(range(3), dtype=torch.float32), seed=0)


class Silent(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("omega", "kind", "named"),
    [
        (float("nan"), NonFiniteError, "returned nan at timestep 99; return finite numbers"),
        (torch.tensor([0.1, float("inf"), 0.1]), NonFiniteError, "returned inf at timestep 99"),
        (-0.25, ValueError, "returned -0.25 at timestep 99; return finite numbers of at least 0"),
        (torch.tensor([0.1, -0.25, 0.1]), ValueError, "returned -0.25 at timestep 99"),
        (
            torch.zeros(2),
            ValueError,
            r"returned a tensor \[2\] at timestep 99; return one number, or one per sample \[3\]",
        ),
        (torch.zeros(3, 1), ValueError, r"returned a tensor \[3, 1\] at timestep 99"),
        (None, ValueError, "returned NoneType at timestep 99; return a number"),
    ],
)
def test_what_a_rule_of_ones_own_must_not_answer_names_it_and_the_timestep(
    omega: Any, kind: type[Exception], named: str
) -> None:
    def my_rule(evidence: Evidence, step: Step) -> Any:
        return omega

    class MyRule(Strength):
        def __call__(self, evidence: Evidence, step: Step) -> Any:
            return omega

    with pytest.raises(kind, match=f"^the strength my_rule {named}"):
        _sample_with(my_rule)
    with pytest.raises(kind, match=f"^the strength MyRule {named}"):
        _sample_with(MyRule())


@pytest.mark.parametrize("omega", [0, 0.5, torch.tensor(0.5), torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0, 1, 2])])
def test_what_a_rule_of_ones_own_may_answer(omega: Any) -> None:
    each = torch.as_tensor(omega).float().expand(3)
    samples = _sample_with(lambda evidence, step: omega)
    assert torch.equal(samples, _sample_with(lambda evidence, step: each))
    still = _sample_with(ConstantStrength(0.0))
    assert (samples != still).any(1).tolist() == (each > 0).tolist()


def test_polyak_compares_with_a_quantile_of_real_data_where_one_was_measured() -> None:
    score = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    with_quantiles = evidence([2.5], score, 2.0)._replace(
        nll_quantiles={0.9: torch.tensor(2.25), 0.99: torch.tensor(9.0)}
    )
    expected = {None: 0.5 / 25, 0.9: 0.25 / 25, 0.99: 0.0}
    for quantile, omega in expected.items():
        assert float(PolyakStrength(100, quantile)(with_quantiles, step_of(1))) == pytest.approx(omega)
    assert float(PolyakStrength(100, 0.9)(evidence([2.5], score, 2.0), step_of(1))) == pytest.approx(0.5 / 25)
    with pytest.raises(ValueError, match=r"quantile 0.8 was not measured; choose one of 0.9, 0.99"):
        PolyakStrength(quantile=0.8)(with_quantiles, step_of(1))
    with pytest.raises(ValueError, match=r"quantile must lie in \(0, 1\), got 1.0"):
        PolyakStrength(quantile=1.0)


def test_of_caps_by_timestep_the_nearest_counts() -> None:
    seen, step = evidence([9.0], torch.tensor([[3.0, 4.0, 0.0]]), 1.0), step_of(1, dim=3)
    for offsets in ((3, 10), (10, 3), (-3, 10), (10, -3), (-3, -10)):
        near, far = sorted((step.timestep + offset for offset in offsets), key=lambda t: abs(t - step.timestep))
        assert torch.equal(PolyakStrength({far: 0.5, near: 0.2})(seen, step), PolyakStrength(0.2)(seen, step))
    with pytest.raises(ValueError, match="cap is empty"):
        PolyakStrength({})
    with pytest.raises(ValueError, match="cap must be a finite number of at least 0, got -1"):
        PolyakStrength({3: -1.0})


def test_tag_hands_the_quantiles_of_its_predictor_to_the_rule() -> None:
    predictor = MLPTimePredictor(num_timesteps=100, widths=(4,)).double()
    predictor.typical_nll.fill_(1.0)
    predictor.nll_quantiles.copy_(torch.arange(500.0).view(5, 100))
    seen: list[dict] = []
    rule = lambda found, step: seen.append(dict(found.nll_quantiles)) or 0.0  # noqa: E731
    step = step_of(2)
    TemporalAlignment(predictor, rule).correct(random_vectors(2, 2), step, lambda x, t: None)  # type: ignore[arg-type,return-value]
    assert seen == [{0.5: 60, 0.75: 160, 0.9: 260, 0.95: 360, 0.99: 460}]
