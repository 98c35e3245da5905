import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch

from tag_lightning.metrics import FID, FrechetDistance
from tag_lightning.metrics.frechet import FeatureSums, resampled_distances


def distance(real, generated, batch=1000):
    metric = FrechetDistance(real.shape[1])
    for rows, is_real in ((real, True), (generated, False)):
        for part in rows.split(batch):
            metric.update(part, real=is_real)
    return metric.compute()


def by_scipy(real, generated):
    first, second = (np.atleast_2d(np.cov(rows.numpy(), rowvar=False)) for rows in (real, generated))
    shift = np.square(real.numpy().mean(0) - generated.numpy().mean(0)).sum()
    return shift + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real)


def correlated(n, d, generator, scale=1.0):
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing


def whitened(n, d, generator):
    """Rows whose mean is exactly 0 and whose covariance, over n - 1, is exactly the identity."""
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    rows = rows - rows.mean(0)
    return torch.linalg.qr(rows).Q * math.sqrt(n - 1)


@pytest.mark.parametrize(("n", "d"), [(500, 1), (300, 8), (400, 64)])
def test_agrees_with_scipy(n, d, generator):
    real, generated = correlated(n, d, generator), correlated(n - 50, d, generator, 1.3) + 0.2
    assert distance(real, generated).item() == pytest.approx(by_scipy(real, generated), rel=1e-9)


def test_singular_covariances_agree_with_scipy(generator):
    real, generated = correlated(20, 64, generator), correlated(25, 64, generator)
    assert distance(real, generated).item() == pytest.approx(by_scipy(real, generated), rel=1e-5)


def test_closed_form_of_gaussians_with_commuting_covariances(generator):
    rows = whitened(200, 5, generator)
    widths = torch.tensor([0.5, 1, 2, 3, 4], dtype=torch.float64)
    shift = torch.arange(5, dtype=torch.float64)
    expected = shift.square().sum() + (widths - 1).square().sum()
    assert distance(rows, rows * widths + shift).item() == pytest.approx(expected.item(), rel=1e-10)


def test_equal_sets_are_at_distance_zero_and_never_below(generator):
    for n in (10, 200):
        rows = correlated(n, 32, generator)
        assert 0 <= distance(rows, rows).item() < 1e-5


def test_batches_and_symmetry(generator):
    real, generated = correlated(300, 8, generator), correlated(200, 8, generator)
    whole = distance(real, generated)
    torch.testing.assert_close(distance(real, generated, batch=7), whole, rtol=1e-11, atol=0)
    torch.testing.assert_close(distance(generated, real), whole, rtol=1e-9, atol=0)
    assert whole.dtype == torch.float64


def test_float32_rows_keep_float64_results(generator):
    real, generated = correlated(100, 4, generator).float(), correlated(100, 4, generator).float()
    assert distance(real, generated).item() == pytest.approx(by_scipy(real.double(), generated.double()), rel=1e-9)


def test_reset_forgets_both_sides(generator):
    real, generated = correlated(50, 4, generator), correlated(50, 4, generator)
    metric = FrechetDistance(4)
    metric.update(real * 9, real=True)
    metric.reset()
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert torch.equal(metric.compute(), distance(real, generated))


@pytest.mark.parametrize(("n_real", "n_generated"), [(0, 0), (5, 1), (1, 5)])
def test_too_few_samples_are_counted_in_the_error(n_real, n_generated):
    metric = FrechetDistance(3)
    metric.update(torch.zeros(n_real, 3), real=True)
    metric.update(torch.zeros(n_generated, 3), real=False)
    with pytest.raises(ValueError, match=f"got {n_real} real and {n_generated} generated"):
        metric.compute()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_features_are_refused(bad):
    rows = torch.zeros(4, 3)
    rows[2, 1] = bad
    with pytest.raises(ValueError, match="1 of 4 generated"):
        FrechetDistance(3).update(rows, real=False)


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"\[n, 3\], got \[4, 2\]"):
        FrechetDistance(3).update(torch.zeros(4, 2), real=True)
    with pytest.raises(ValueError, match="at least 1"):
        FrechetDistance(0)


def test_sums_of_parts_are_those_of_all_rows(generator):
    real, generated = correlated(60, 5, generator), correlated(50, 5, generator)
    parts = [FeatureSums.of(part) for part in (generated[:0], *generated.split(7))]
    metric = FrechetDistance(5)
    metric.update(real, real=True)
    metric.update_sums(FeatureSums(*(sum(each) for each in zip(*parts, strict=True))), real=False)
    assert metric.counts == {"real": 60, "generated": 50}
    assert metric.compute().item() == pytest.approx(distance(real, generated).item(), rel=1e-12)


def test_the_real_side_can_be_kept_for_the_next_samples(generator):
    real, first, second = (torch.randn(40, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    kept = FrechetDistance(3)
    kept.update(real, real=True)
    distances = []
    for samples in (first, second):
        kept.reset(keep_real=True)
        kept.update(samples, real=False)
        distances.append(float(kept.compute()))
    alone = FrechetDistance(3)
    alone.update(real, real=True)
    alone.update(second, real=False)
    assert distances[1] == float(alone.compute()) != distances[0]


@pytest.mark.parametrize(("n", "d"), [(60, 8), (20, 50)])
def test_resamples_are_at_the_distance_of_their_repeated_rows(n, d, generator):
    real, generated = correlated(200, d, generator), correlated(n, d, generator, 1.3) + 0.2
    counts = torch.stack([torch.randint(n, (n,), generator=generator).bincount(minlength=n) for _ in range(3)])
    counts = torch.cat([torch.ones(1, n, dtype=torch.long), counts])
    found = resampled_distances(generated, counts, real.mean(0), real.T.cov())
    expected = [distance(real, generated.repeat_interleave(row, dim=0)).item() for row in counts]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_moments_of_real_rows_are_those_of_all_batches(generator):
    real = correlated(300, 6, generator)
    metric = FrechetDistance(6)
    for part in real.split(70):
        metric.update(part, real=True)
    mean, covariance = metric.real_moments
    torch.testing.assert_close(mean, real.mean(0))
    torch.testing.assert_close(covariance, real.T.cov())


class LabelledTask(SimpleNamespace):
    """Asks for class 1 alone."""

    def asked(self, attributes: dict[str, torch.Tensor]) -> torch.Tensor:
        return attributes["label"] == 1


def test_a_distance_to_the_classes_asked_for_sees_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(n, 1, 1, 3, generator=generator) for n in (60, 30))
    labels = torch.arange(60) % 3
    real = real + labels.reshape(-1, 1, 1, 1)
    task = LabelledTask(judge=None, sample_shape=(1, 1, 3))

    def distance(x: torch.Tensor, attributes: torch.Tensor, only: bool) -> float:
        metric = FID("pixels", "child_fid", asked_classes_only=only).for_task(task)
        for part, label in zip(x.split(2), attributes.split(2), strict=True):  # some batches have none of them
            metric.add_real(SimpleNamespace(x=part, attributes={"label": label}), torch.device("cpu"))
        return metric.summary(metric.rows(generated, range(30)))["child_fid"]

    chosen = labels == 1
    only = distance(real, labels, True)
    assert only == pytest.approx(distance(real[chosen], labels[chosen], False), rel=1e-9)
    assert only != pytest.approx(distance(real, labels, False), rel=0.01)
    with pytest.raises(ValueError, match="child_fid is of the classes asked for, but SimpleNamespace asks for none"):
        FID("pixels", "child_fid", asked_classes_only=True).for_task(SimpleNamespace())


def test_a_distance_of_the_first_samples_ignores_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = torch.randn(60, 1, 1, 3, generator=generator), torch.randn(30, 1, 1, 3, generator=generator)
    task = SimpleNamespace(judge=None, sample_shape=(1, 1, 3))

    def distance(x: torch.Tensor, first: int | None) -> dict[str, float]:
        metric = FID("pixels", "fid_few", first=first).for_task(task)
        metric.add_real(SimpleNamespace(x=real), torch.device("cpu"))
        return metric.summary(metric.rows(x, range(len(x))))

    assert distance(generated, 20) == distance(generated[:20], None)
    metric = FID("pixels", "fid_few", first=20).for_task(task)
    metric.add_real(SimpleNamespace(x=real), torch.device("cpu"))
    totals = [metric.totals(metric.rows(generated[part], part), part) for part in torch.arange(30).split(8)]
    summed = {name: sum(total[name] for total in totals) for name in totals[0]}
    assert metric.summary(summed) == pytest.approx(distance(generated, 20), rel=1e-9)
    assert distance(generated, 20) != distance(generated, None)
    assert distance(generated, 31) == {}
    with pytest.raises(ValueError, match="fid_few needs at least 2 samples, got first 1"):
        FID("pixels", "fid_few", first=1)


def test_the_reference_is_the_distance_of_as_many_test_images_evenly_spaced() -> None:
    real, held_out = (torch.randn(n, 1, 1, 3, generator=torch.Generator().manual_seed(n)) for n in (60, 41))

    class HeldOut:
        def __len__(self) -> int:
            return len(held_out)

        def __getitem__(self, places: list[int]) -> SimpleNamespace:
            return SimpleNamespace(x=held_out[places])

    tables = {"test": HeldOut()}
    data = SimpleNamespace(table=tables.__getitem__, batch_size=4)

    def prepared(num_samples: int, first: int | None = None, only: bool = False) -> FID:
        task = LabelledTask(judge=None, sample_shape=(1, 1, 3), data=data, num_samples=num_samples)
        metric = FID("pixels", first=first, asked_classes_only=only).for_task(task)
        metric.add_real(SimpleNamespace(x=real, attributes={"label": torch.ones(60)}), torch.device("cpu"))
        metric.prepare(torch.device("cpu"))
        return metric

    metric = prepared(21)
    every_other = held_out[::2]
    assert metric.reference["fid"] == pytest.approx(
        metric.summary(metric.rows(every_other, range(21)))["fid"], rel=1e-9
    )
    assert prepared(1000, first=21).reference == metric.reference
    assert prepared(41).reference != metric.reference
    assert prepared(42).reference == prepared(1).reference == prepared(21, only=True).reference == {}
    assert metric.reference_state()["reference"] == {}, "it holds for one number of samples alone"
