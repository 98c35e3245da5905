"""How well a time predictor sees damage that was planted in real molecules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import NoiseSchedule, centred

Damage = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def jittered(x: Tensor, mask: Tensor, generator: torch.Generator, by: float = 0.1) -> Tensor:
    """Every coordinate moved by Gaussian noise of standard deviation ``by`` angstrom.

    Args:
        x: Clean molecules ``[B, N, 3 + F]``, positions in angstrom; likewise for the other kinds of damage.
        mask: True at atoms, ``[B, N]``.
        generator: Randomness, on the CPU.
        by: Standard deviation, angstrom.
    """
    noise = by * torch.randn(*x.shape[:2], 3, generator=generator).to(x)
    return centred(torch.cat((x[..., :3] + noise, x[..., 3:]), -1), mask)


def displaced(x: Tensor, mask: Tensor, generator: torch.Generator, by: float = 0.5) -> Tensor:
    """One atom of each molecule moved by ``by`` angstrom in a random direction."""
    direction = nn.functional.normalize(torch.randn(len(x), 3, generator=generator), dim=1).to(x)
    moved = x.clone()
    moved[torch.arange(len(x)), _one_of(mask, generator), :3] += by * direction
    return centred(moved, mask)


def miscast(x: Tensor, mask: Tensor, generator: torch.Generator, num_elements: int | None = None) -> Tensor:
    """One atom of each molecule with another element that the molecules of the batch have, its charge included.

    Args:
        x: See ``jittered``.
        mask: See ``jittered``.
        generator: See ``jittered``.
        num_elements: Number of one-hot columns, the first of the features; None takes all of them.

    Raises:
        ValueError: If the molecules have a single element, or the columns are not one-hot, as with that of the charge.
    """
    columns = x[..., 3 : None if num_elements is None else 3 + num_elements]
    if not bool(((columns > 0).sum(-1) == 1)[mask].all()):
        raise ValueError("the columns of the elements are not one-hot; leave the charge out by num_elements")
    present = ((columns > 0) & mask[..., None]).flatten(0, 1).any(0).nonzero()[:, 0].cpu()
    if len(present) < 2:
        raise ValueError("the molecules have a single element, so no atom can have a wrong one; give others")
    rows, atoms = torch.arange(len(x)), _one_of(mask, generator)
    place = (present == columns[rows, atoms].argmax(-1).cpu()[:, None]).int().argmax(1)
    other = present[(place + torch.randint(1, len(present), (len(x),), generator=generator)) % len(present)]
    # All atoms of an element have the same features, so any of them can lend its own.
    lenders = (columns.flatten(0, 1) * mask.flatten()[:, None]).argmax(0)
    changed = x.clone()
    changed[rows, atoms, 3:] = x.flatten(0, 1)[lenders[other.to(x.device)], 3:]
    return changed


def dilated(x: Tensor, mask: Tensor, generator: torch.Generator, by: float = 0.05) -> Tensor:
    """Every distance longer by the share ``by``."""
    return torch.cat(((1 + by) * x[..., :3], x[..., 3:]), -1)


def kinds_of_damage(num_elements: int | None = None) -> Mapping[str, Damage]:
    """The kinds of damage by name.

    Args:
        num_elements: Number of one-hot columns of the molecules, see ``miscast``.
    """
    return {
        "jitter 0.1": partial(jittered, by=0.1),
        "atom moved by 0.5": partial(displaced, by=0.5),
        "wrong element": partial(miscast, num_elements=num_elements),
        "dilated by 5 %": partial(dilated, by=0.05),
    }


def damage_detection(
    predictor: nn.Module,
    schedule: NoiseSchedule,
    batches: Sequence[Any],
    timesteps: Sequence[int] = (5, 30, 100),
    damages: Mapping[str, Damage] | None = None,
    seed: int = 0,
) -> dict[str, dict[int, float]]:
    """How well ``-log p(t | x_t)`` tells damaged molecules from intact ones, as the area under the ROC curve.

    Both are noised to timestep t with the same noise. TAG lowers this very quantity, so damage that it cannot see,
    0.5, is damage that TAG cannot repair; 1 is perfect. Unlike the Time-Gap, it measures how the predictor answers to
    samples off the data.

    Args:
        predictor: Maps noisy molecules to logits ``[B, T]``.
        schedule: Its noise schedule.
        batches: Batches of clean molecules with the input ``mask``, at least one.
        timesteps: Timesteps of the noise.
        damages: Kinds of damage by name; None takes ``kinds_of_damage()``. Molecules with a column of the charge need
            ``kinds_of_damage(num_elements)``.
        seed: Seed of damage and noise.

    Returns:
        The area by kind of damage and timestep.
    """
    from sklearn.metrics import roc_auc_score  # scikit-learn takes a second to load, and no run needs it

    damages = kinds_of_damage() if damages is None else damages
    areas: dict[str, dict[int, float]] = {name: {} for name in damages}
    for timestep in timesteps:
        scores: dict[str, list[Tensor]] = {name: [] for name in ("intact", *damages)}
        for number, batch in enumerate(batches):
            mask = batch.inputs["mask"]
            for name, damage in {"intact": _intact, **damages}.items():
                generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
                noise = centred(torch.randn(batch.x.shape, generator=generator).to(batch.x), mask)
                x0 = damage(batch.x, mask, generator)
                scores[name].append(_surprise(predictor, schedule, x0, noise, mask, timestep))
        intact = torch.cat(scores.pop("intact"))
        for name, parts in scores.items():
            damaged = torch.cat(parts)
            labels = [0] * len(intact) + [1] * len(damaged)
            areas[name][timestep] = float(roc_auc_score(labels, torch.cat((intact, damaged)).double().numpy()))
    return areas


def _intact(x: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    return x


@torch.no_grad()
def _surprise(
    predictor: nn.Module, schedule: NoiseSchedule, x0: Tensor, noise: Tensor, mask: Tensor, timestep: int
) -> Tensor:
    """``-log p(t | x_t)`` of each molecule, ``[B]`` on the CPU."""
    labels = torch.full((len(x0),), timestep, device=x0.device)
    logits = predictor(schedule.add_noise(x0, noise, labels), mask=mask)
    return nn.functional.cross_entropy(logits, labels, reduction="none").cpu()


def _one_of(mask: Tensor, generator: torch.Generator) -> Tensor:
    """The place of one atom of each molecule, ``[B]``."""
    return torch.multinomial(mask.cpu().float(), 1, generator=generator)[:, 0]
