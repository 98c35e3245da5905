import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tag_lightning.metrics import NLLQuantiles, TimeCalibration, TimeGap, TypicalNLL, time_gap

NAN = math.nan


def one_hot(indices, total):
    return torch.nn.functional.one_hot(torch.tensor(indices), total).float() * 5


def uniform_samples_of(posteriors, draws, generator):
    """Timesteps drawn from the posteriors themselves, and the logits of those posteriors."""
    timesteps = torch.multinomial(posteriors, draws, replacement=True, generator=generator)
    return posteriors.log().repeat_interleave(draws, 0), timesteps.flatten()


def test_time_gap_by_hand():
    logits = one_hot([0, 3, 9], 10)
    assert time_gap(logits, torch.tensor([0, 5, 0])).tolist() == [0, 2, 9]
    assert time_gap(logits, 4).tolist() == [4, 1, 5]


def test_metric_by_hand():
    metric = TimeGap(4)
    metric.update(one_hot([0, 3, 1], 4), torch.tensor([0, 1, 1]))
    metric.update(one_hot([0], 4), 3)
    assert metric.compute() == (0 + 2 + 0 + 3) / 4
    torch.testing.assert_close(metric.per_timestep(), torch.tensor([0, 1, NAN, 3], dtype=torch.float64), equal_nan=True)


def test_tenths_pool_the_samples_of_their_timesteps():
    metric = TimeGap(20)
    metric.update(one_hot([2, 5, 5], 20), torch.tensor([0, 0, 1]))
    metric.update(one_hot([19], 20), 18)
    expected = [(2 + 5 + 4) / 3, *[NAN] * 8, 1]
    torch.testing.assert_close(metric.per_tenth(), torch.tensor(expected, dtype=torch.float64), equal_nan=True)


def test_tenths_of_fewer_than_ten_timesteps():
    metric = TimeGap(2)
    metric.update(one_hot([1, 1], 2), torch.tensor([0, 1]))
    tenths = metric.per_tenth()
    assert (tenths[0], tenths[5]) == (1, 0)
    assert tenths.isnan().sum() == 8


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 30).flatmap(
        lambda total: st.tuples(
            st.just(total), st.lists(st.tuples(*[st.integers(0, total - 1)] * 2), min_size=1, max_size=40)
        )
    )
)
def test_metric_agrees_with_numpy(case):
    total, pairs = case
    believed, true = (list(column) for column in zip(*pairs, strict=True))
    metric = TimeGap(total)
    metric.update(one_hot(believed, total), torch.tensor(true))
    gaps = np.abs(np.subtract(believed, true))
    assert metric.compute().item() == pytest.approx(gaps.mean(), rel=1e-15)
    for t, gap in enumerate(metric.per_timestep().tolist()):
        here = gaps[np.equal(true, t)]
        assert math.isnan(gap) if len(here) == 0 else gap == pytest.approx(here.mean(), rel=1e-15)


def test_order_and_batches_do_not_matter(generator):
    logits = torch.randn(64, 50, generator=generator)
    timesteps = torch.randint(0, 50, (64,), generator=generator)
    whole, parts = TimeGap(50), TimeGap(50)
    whole.update(logits, timesteps)
    for i in reversed(range(64)):
        parts.update(logits[i : i + 1], timesteps[i : i + 1])
    assert torch.equal(whole.compute(), parts.compute())
    assert torch.equal(whole.per_timestep().nan_to_num(), parts.per_timestep().nan_to_num())


@pytest.mark.parametrize("metric", [TimeGap(7), TypicalNLL(7), TimeCalibration(7)])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_nan(metric):
    value = metric.compute()
    values = list(value.values()) if isinstance(value, dict) else [value]
    assert all(v.isnan().all() for v in values)


def test_tenths_and_timesteps_without_samples_are_nan():
    assert TimeGap(7).per_timestep().isnan().all()
    assert TimeGap(7).per_tenth().isnan().all()


def test_empty_batches_and_reset():
    metric = TimeGap(7)
    metric.update(torch.empty(0, 7), torch.empty(0, dtype=torch.long))
    metric.update(one_hot([2], 7), 1)
    assert metric.compute() == 1
    metric.reset()
    metric.update(one_hot([2], 7), 2)
    assert metric.compute() == 0


@pytest.mark.parametrize("make", [TimeGap, TypicalNLL, TimeCalibration])
@pytest.mark.parametrize(
    ("logits", "timesteps", "message"),
    [
        (torch.zeros(2, 5), torch.tensor([0, 5]), r"0\.\.4.*got 0\.\.5"),
        (torch.zeros(2, 5), -1, r"0\.\.4"),
        (torch.zeros(2, 6), 0, "6 columns.*num_timesteps=5"),
        (torch.zeros(2, 5), torch.tensor([0, 1, 2]), r"2 of them.*\[3\]"),
        (torch.zeros(2, 5), torch.tensor([0.0, 1.0]), "integer"),
        (torch.zeros(5), 0, r"\[B, T\]"),
        (torch.tensor([[0.0] * 5, [NAN] * 5]), 0, "NaN in 1 of 2 rows"),
    ],
)
def test_impossible_input_is_refused(make, logits, timesteps, message):
    with pytest.raises(ValueError, match=message):
        make(5).update(logits, timesteps)


@pytest.mark.parametrize("make", [TimeGap, TypicalNLL, TimeCalibration])
def test_a_schedule_without_timesteps_is_refused(make):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_under_grad_and_low_precision(dtype):
    logits = one_hot([1, 2], 5).to(dtype).requires_grad_()
    for metric in (TimeGap(5), TypicalNLL(5), TimeCalibration(5)):
        metric.update(logits, torch.tensor([1, 2]))
        value = metric.compute()
        assert not any(v.requires_grad for v in (value.values() if isinstance(value, dict) else [value]))


def test_typical_nll_is_the_mean_and_is_filled_between(generator):
    logits = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    metric = TypicalNLL(6)
    metric.update(logits, torch.tensor([1, 1, 4]))
    nll = -(logits - logits.exp().sum(1, keepdim=True).log())
    low, high = (nll[0, 1] + nll[1, 1]) / 2, nll[2, 4]
    expected = torch.stack([low, low, low + (high - low) / 3, low + (high - low) * 2 / 3, high, high])
    torch.testing.assert_close(metric.compute(), expected)


def test_a_calibrated_posterior_is_called_calibrated(generator):
    posteriors = torch.randn(200, 40, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    logits, timesteps = uniform_samples_of(posteriors, 400, generator)
    metric = TimeCalibration(40)
    metric.update(logits, timesteps)
    value = metric.compute()
    assert value["z_squared"].item() == pytest.approx(1, abs=0.02)
    assert value["coverage_90"].item() == pytest.approx(0.9, abs=0.005)
    entropy = -(posteriors * posteriors.log()).sum(1).mean()
    assert value["nll"].item() == pytest.approx(entropy.item(), abs=0.02)


@pytest.mark.parametrize("total", [2, 3, 10, 37])
def test_expected_calibration_is_exact(total, generator):
    """Each timestep weighted by its probability gives the expectation itself, without sampling error."""
    posterior = torch.randn(total, generator=generator, dtype=torch.float64).softmax(0)
    z_squared, coverage = 0.0, 0.0
    for t in range(total):
        metric = TimeCalibration(total)
        metric.update(posterior.log()[None], t)
        value = metric.compute()
        z_squared += posterior[t] * value["z_squared"]
        coverage += posterior[t] * value["coverage_90"]
    variance = (posterior * (torch.arange(total) - posterior @ torch.arange(total).double()) ** 2).sum()
    assert float(z_squared) == pytest.approx(min(1.0, 12 * float(variance)), rel=1e-12)
    assert float(coverage) == pytest.approx(0.9, rel=1e-12)


@pytest.mark.parametrize(("sharpening", "over"), [(4.0, True), (0.25, False)])
def test_over_and_underconfidence_show(sharpening, over, generator):
    centres = torch.rand(500, 1, generator=generator, dtype=torch.float64) * 60 + 20
    posteriors = (-((torch.arange(100) - centres) ** 2) / 2 / 25).softmax(1)
    logits, timesteps = uniform_samples_of(posteriors, 20, generator)
    metric = TimeCalibration(100)
    metric.update(logits * sharpening, timesteps)
    value = metric.compute()
    assert value["z_squared"].item() == pytest.approx(sharpening, rel=0.05)
    assert (value["coverage_90"] < 0.8) if over else (value["coverage_90"] > 0.98)


def test_one_certain_and_wrong_answer_stays_finite():
    metric = TimeCalibration(10)
    metric.update(one_hot([2], 10) * 1e4, 5)
    value = metric.compute()
    assert value["z_squared"] == 3**2 * 12
    assert value["coverage_90"] == 0
    assert torch.isfinite(value["nll"])


def test_quantiles_of_the_likelihood_are_those_of_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, timesteps = 2 * torch.randn(4000, 5, generator=generator), torch.arange(4000) % 5
    metric = NLLQuantiles(5, (0.5, 0.9, 0.99))
    for part in range(4):
        metric.update(logits[part::4], timesteps[part::4])
    nll = F.cross_entropy(logits, timesteps, reduction="none").double().numpy()
    expected = [np.quantile(nll[timesteps.numpy() == t], (0.5, 0.9, 0.99)) for t in range(5)]
    # Within a bin of 0.05 nats.
    np.testing.assert_allclose(metric.compute().T.numpy(), expected, atol=0.06)


def test_quantiles_pool_their_neighbours_and_fill_what_was_never_seen() -> None:
    certain = torch.tensor([[9.0, 0, 0, 0, 0, 0, 0, 0]])  # nll about 0 at 0, about 9 elsewhere
    alone, pooled = NLLQuantiles(8, (0.5,)), NLLQuantiles(8, (0.5,), window=1)
    for metric in (alone, pooled):
        assert metric.compute().isnan().all()
        for timestep, count in ((0, 1), (1, 3), (6, 1)):
            metric.update(certain.expand(count, -1), timestep)
    values = alone.compute()[0]
    assert values[0] < 0.06
    assert ((values[1:] - 9).abs() < 0.06).all()
    assert abs(float(pooled.compute()[0, 0]) - 9) < 0.06  # three of the four in its window


def test_certain_and_wrong_stays_finite() -> None:
    metric = NLLQuantiles(2, (0.5,))
    metric.update(torch.tensor([[900.0, 0.0]]), 1)
    assert float(metric.compute()[0, 1]) == pytest.approx(25, abs=0.06)
    with pytest.raises(ValueError, match="levels in"):
        NLLQuantiles(2, (1.0,))
