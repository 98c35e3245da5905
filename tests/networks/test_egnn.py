"""EGNNs: held to the symmetries of molecules, to the plain edge-list form, and to independence of padding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.edge_list_egnn import EdgeListEGNN
from tag_lightning.diffusion import centred
from tag_lightning.networks import EGNNDenoiser, EGNNNoiseLevel, EGNNPropertyPredictor, EGNNTimePredictor
from tag_lightning.networks.egnn import radial_bases

FEATURES, WIDEST = 5, 9


def network(cls: type, **settings: object) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        built = cls(num_features=FEATURES, width=16, **settings).double().eval()
        for parameter in built.parameters():  # the small first weights of the moves would hide what they do
            if parameter.ndim == 2 and parameter.shape[0] == 1:
                parameter.data.normal_(0, 0.3)
    return built


DENOISER = network(EGNNDenoiser, num_blocks=3, num_timesteps=50, longest=1.0)
PROPERTIES = network(EGNNPropertyPredictor, properties=("alpha", "mu"), num_layers=3)
TIMES = network(EGNNTimePredictor, num_timesteps=50, num_layers=2)
BASES = network(EGNNDenoiser, num_blocks=3, num_timesteps=50, longest=1.0, num_bases=6, shared_messages=True)
GEOMETRIC = network(
    EGNNTimePredictor, num_timesteps=50, num_layers=2, num_bases=6, per_atom=True, decided_elements=True
)
LEVEL = network(EGNNNoiseLevel, num_timesteps=50, num_layers=2, num_bases=6)
INVARIANT = (PROPERTIES, TIMES, GEOMETRIC)
DENOISERS = (DENOISER, BASES)


def rotation(seed: int, mirrored: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    q = q * r.diagonal().sign()
    return q * (q.det().sign() * (-1 if mirrored else 1))


def cloud(sizes: list[int], seed: int, width: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = width or max(sizes)
    mask = torch.arange(width) < torch.tensor(sizes)[:, None]
    x = torch.zeros(len(sizes), width, 3 + FEATURES, dtype=torch.float64)
    for row, size in zip(x, sizes, strict=True):
        row[:size] = 1.5 * torch.randn(size, 3 + FEATURES, dtype=torch.float64, generator=generator)
    return centred(x, mask), mask, torch.randint(50, (len(sizes),), generator=generator)


def turned(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.cat((x[..., :3] @ matrix.T, x[..., 3:]), -1)


sizes = st.lists(st.integers(1, WIDEST), min_size=1, max_size=4)
seeds = st.integers(0, 2**16)


@settings(max_examples=25, deadline=None)
@given(sizes, seeds, st.sampled_from(DENOISERS), st.booleans())
def test_the_denoiser_turns_with_the_molecule(
    sizes: list[int], seed: int, net: torch.nn.Module, mirrored: bool
) -> None:
    x, mask, timesteps = cloud(sizes, seed)
    matrix = rotation(seed, mirrored)
    torch.testing.assert_close(
        net(turned(x, matrix), timesteps, mask), turned(net(x, timesteps, mask), matrix), rtol=0, atol=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(sizes, seeds, st.sampled_from(INVARIANT), st.booleans())
def test_predictors_do_not_see_turns(sizes: list[int], seed: int, net: torch.nn.Module, mirrored: bool) -> None:
    x, mask, _ = cloud(sizes, seed)
    torch.testing.assert_close(net(turned(x, rotation(seed, mirrored)), mask), net(x, mask), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(sizes, seeds, st.floats(-5, 5))
def test_translation_changes_nothing_that_is_learned_from_distances(sizes: list[int], seed: int, by: float) -> None:
    x, mask, timesteps = cloud(sizes, seed)
    shift = torch.tensor([by, -by, 0.5 * by] + [0.0] * FEATURES, dtype=torch.float64) * mask[..., None]
    torch.testing.assert_close(DENOISER(x + shift, timesteps, mask), DENOISER(x, timesteps, mask), rtol=0, atol=1e-9)
    torch.testing.assert_close(PROPERTIES(x + shift, mask), PROPERTIES(x, mask), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, WIDEST), seeds)
def test_the_order_of_atoms_does_not_matter(size: int, seed: int) -> None:
    x, mask, timesteps = cloud([size, size], seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    for net in DENOISERS:
        noise = net(x, timesteps, mask)
        torch.testing.assert_close(net(x[:, order], timesteps, mask), noise[:, order], rtol=0, atol=1e-9)
    for net in INVARIANT:
        torch.testing.assert_close(net(x[:, order], mask), net(x, mask), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(sizes, seeds, st.integers(0, 4))
def test_padding_and_neighbours_in_the_batch_change_nothing(sizes: list[int], seed: int, extra: int) -> None:
    x, mask, timesteps = cloud(sizes, seed, max(sizes) + extra)
    for i, size in enumerate(sizes):
        for net in DENOISERS:
            together = net(x, timesteps, mask)
            assert not together[~mask].any()
            alone = net(x[i : i + 1, :size], timesteps[i : i + 1], mask[i : i + 1, :size])
            torch.testing.assert_close(together[i : i + 1, :size], alone, rtol=0, atol=1e-9)
        for net in INVARIANT:
            one = net(x[i : i + 1, :size], mask[i : i + 1, :size])
            torch.testing.assert_close(net(x, mask)[i : i + 1], one, rtol=0, atol=1e-9)


def test_padding_changes_float32_by_rounding_at_most() -> None:
    x, mask, timesteps = cloud([5, 9, 3], 0, 20)
    net = network(EGNNDenoiser, num_blocks=3, num_timesteps=50, longest=1.0).float()
    wide = net(x.float(), timesteps, mask)[:, :9]
    torch.testing.assert_close(wide, net(x[:, :9].float(), timesteps, mask[:, :9]), rtol=1e-6, atol=1e-6)


def test_what_lies_in_the_padding_is_not_seen() -> None:
    x, mask, timesteps = cloud([4, 7], 3, 8)
    dirty = torch.where(mask[..., None], x, 7.0)
    torch.testing.assert_close(DENOISER(dirty, timesteps, mask), DENOISER(x, timesteps, mask), rtol=0, atol=0)
    torch.testing.assert_close(PROPERTIES(dirty, mask), PROPERTIES(x, mask), rtol=0, atol=0)
    torch.testing.assert_close(TIMES(dirty, mask), TIMES(x, mask), rtol=0, atol=0)
    torch.testing.assert_close(GEOMETRIC(dirty, mask), GEOMETRIC(x, mask), rtol=0, atol=1e-12)
    torch.testing.assert_close(BASES(dirty, timesteps, mask), BASES(x, timesteps, mask), rtol=0, atol=0)


@pytest.mark.parametrize("padded", [False, True])
def test_the_dense_form_is_the_published_one(padded: bool) -> None:
    x, mask, timesteps = cloud([1, 2, 6, 9], 5, 11)
    plain = EdgeListEGNN(DENOISER, padded)  # type: ignore[arg-type]
    torch.testing.assert_close(DENOISER(x, timesteps, mask), plain(x, timesteps, mask), rtol=1e-10, atol=1e-10)
    gradients = []
    for net in (DENOISER, plain):
        y = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(net(y, timesteps, mask).square().sum(), y)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_the_velocity_is_centred_and_depends_on_the_time() -> None:
    x, mask, timesteps = cloud([4, 8], 7)
    noise = DENOISER(x, timesteps, mask)
    assert noise[..., :3].sum(1).abs().max() < 1e-12
    assert noise.abs().max() > 1e-3
    assert not torch.allclose(noise, DENOISER(x, (timesteps + 20) % 50, mask))


@pytest.mark.parametrize("net", INVARIANT)
def test_the_gradient_stays_in_the_space_of_centred_molecules(net: torch.nn.Module) -> None:
    x, mask, _ = cloud([4, 8], 7, 10)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(x, mask).log_softmax(1)[:, 0].sum(), x)
    assert not gradient[~mask].any()
    if net is PROPERTIES:
        assert gradient[..., :3].sum(1).abs().max() < 1e-10


def test_one_atom_is_no_accident() -> None:
    x, mask, timesteps = cloud([1], 0)
    for output in (DENOISER(x, timesteps, mask), PROPERTIES(x, mask), TIMES(x, mask)):
        assert bool(output.isfinite().all())
    y = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(DENOISER(y, timesteps, mask).sum(), y)
    assert bool(gradient.isfinite().all())


def test_the_published_size() -> None:
    count = sum(p.numel() for p in EGNNDenoiser(num_features=6).parameters())
    # The released checkpoint's 5,339,920 trainable numbers have a second, unused output for the time column.
    assert math.isclose(count, 5_339_920, rel_tol=1e-3)


def test_properties_are_in_their_units() -> None:
    net = network(EGNNPropertyPredictor, properties=("alpha", "mu"), num_layers=1)
    x, mask, _ = cloud([5], 0)
    plain = net(x, mask)
    net.mean.copy_(torch.tensor([75.0, 2.7]))
    net.spread.copy_(torch.tensor([6.0, 1.2]))
    torch.testing.assert_close(net(x, mask), torch.tensor([[75.0, 2.7]]).double() + torch.tensor([6.0, 1.2]) * plain)


def test_a_predictor_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="properties is empty"):
        EGNNPropertyPredictor(properties=())


def test_radial_bases_tell_bond_lengths_apart_and_are_smooth_at_zero() -> None:
    distance = torch.tensor([0.0, 1.0, 1.4, 1.5, 30.0], dtype=torch.float64)
    bases = radial_bases(distance.square()[:, None], 9)
    centres = torch.arange(9) * 0.5
    expected = (-0.5 * ((distance[:, None] - centres) / 0.5).square()).exp()
    torch.testing.assert_close(bases, expected, rtol=0, atol=1e-3)
    assert float((bases[2] - bases[3]).norm()) > 0.1
    assert not bases[4].any()
    assert radial_bases(distance.square()[:, None], 0).shape == (5, 0)
    squared = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(radial_bases(squared, 9).sum(), squared)
    assert bool(gradient.isfinite().all())


def test_shared_messages_take_half_the_pair_networks_and_old_networks_keep_their_weights() -> None:
    def names(**settings: object) -> set[str]:
        return set(EGNNDenoiser(width=8, num_blocks=2, **settings).state_dict())  # type: ignore[arg-type]

    own, shared = names(), names(shared_messages=True)
    assert shared < own
    assert all(".message." in name and name.startswith("equivariant.") for name in own - shared)
    assert EGNNDenoiser(width=8, num_blocks=1).invariant[0].message.distance.weight.shape == (8, 2)
    assert EGNNDenoiser(width=8, num_blocks=1, num_bases=5).invariant[0].message.distance.weight.shape == (8, 12)


def test_the_logits_of_the_atoms_are_averaged() -> None:
    x, mask, _ = cloud([3, 7], 2)
    seen = []
    handle = GEOMETRIC.hidden.register_forward_hook(lambda module, inputs, output: seen.append(output))
    averaged = GEOMETRIC(x, mask)
    handle.remove()
    for row, size in enumerate((3, 7)):
        each = GEOMETRIC.head(seen[0][row, :size])
        torch.testing.assert_close(averaged[row], each.mean(0), rtol=0, atol=1e-12)


def test_decided_elements_hide_the_noise_of_the_features() -> None:
    x, mask, _ = cloud([3, 7], 2)
    scaled = torch.cat((x[..., :3], 3 * x[..., 3:]), -1)
    torch.testing.assert_close(GEOMETRIC(scaled, mask), GEOMETRIC(x, mask), rtol=0, atol=0)
    assert not torch.allclose(TIMES(scaled, mask), TIMES(x, mask))
    other = torch.cat((x[..., :3], x[..., 3:].roll(1, -1)), -1)
    assert not torch.allclose(GEOMETRIC(other, mask), GEOMETRIC(x, mask))


@settings(max_examples=25, deadline=None)
@given(sizes, seeds, st.booleans(), st.floats(-5, 5))
def test_the_noise_level_does_not_see_where_a_molecule_lies(
    sizes: list[int], seed: int, mirrored: bool, by: float
) -> None:
    x, mask, timesteps = cloud(sizes, seed)
    shift = torch.tensor([by, -by, 0.5 * by] + [0.0] * FEATURES, dtype=torch.float64) * mask[..., None]
    moved = turned(x, rotation(seed, mirrored)) + shift
    torch.testing.assert_close(LEVEL(moved, timesteps, mask), LEVEL(x, timesteps, mask), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, WIDEST), seeds)
def test_the_noise_level_does_not_see_the_order_of_atoms(size: int, seed: int) -> None:
    x, mask, timesteps = cloud([size, size], seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(LEVEL(x[:, order], timesteps, mask), LEVEL(x, timesteps, mask), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(sizes, seeds, st.integers(0, 4))
def test_the_noise_level_depends_neither_on_padding_nor_on_the_batch(sizes: list[int], seed: int, extra: int) -> None:
    x, mask, timesteps = cloud(sizes, seed, max(sizes) + extra)
    together = LEVEL(torch.where(mask[..., None], x, math.nan), timesteps, mask)
    for i, size in enumerate(sizes):
        alone = LEVEL(x[i : i + 1, :size], timesteps[i : i + 1], mask[i : i + 1, :size])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-9)


def test_the_noise_level_reads_positions_features_and_timestep() -> None:
    x, mask, timesteps = cloud([4, 7], 3)
    level = LEVEL(x, timesteps, mask)
    assert level.shape == (2,)
    for columns in (slice(0, 3), slice(3, None)):
        scaled = x.clone()
        scaled[..., columns] *= 1.5
        assert (LEVEL(scaled, timesteps, mask) - level).abs().min() > 1e-4
    assert (LEVEL(x, (timesteps + 20) % 50, mask) - level).abs().min() > 1e-4


def test_the_noise_level_of_one_atom_is_no_accident() -> None:
    x, mask, timesteps = cloud([1], 0)
    assert bool(LEVEL(x, timesteps, mask).isfinite().all())
    with pytest.raises(ValueError, match="num_timesteps must be at least 2, got 1"):
        EGNNNoiseLevel(num_timesteps=1)
