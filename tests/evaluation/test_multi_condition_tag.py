"""TAG under two conditions: each kind of time predictor is told what its algorithm says, at the sample it says."""

from __future__ import annotations

import pytest
import torch
from sampling_runs import tiny_data, tiny_task
from tiny_runs import SIZE, TIMESTEPS, TinyNetworks, seeded
from torch import Tensor

from tag_lightning.evaluation import Arm, ArmSampler, ClassTarget, ImageTask, QuantityTarget
from tag_lightning.evaluation.networks import load_denoiser
from tag_lightning.guidance import DPS, Guidance, TemporalAlignment
from tag_lightning.networks import Hue, Ink, SimpleCNN

KINDS: dict[str, dict[str, int]] = {"unconditional": {}, "single": {"hue": 8}, "multi": {"hue": 8, "label": 10}}
COUNT = 12


def predictor(conditions: dict[str, int]) -> SimpleCNN:
    return seeded(lambda: SimpleCNN(SIZE, num_timesteps=TIMESTEPS, widths=(8, 8), conditions=conditions), 5)


def task_of(tiny: TinyNetworks) -> ImageTask:
    return tiny_task(tiny, further_targets={"hue": ClassTarget(Hue(), Hue())}).for_data(tiny_data()).for_samples(COUNT)


def arm_sampler(tiny: TinyNetworks, network: SimpleCNN, task: ImageTask) -> ArmSampler:
    denoiser = load_denoiser(tiny.root / "denoiser", task.data.example)
    return ArmSampler(denoiser, task, network, num_steps=3, chunk_size=5, progress=False)


class Recorded(Guidance):
    """Keeps the first samples that it is given, before and after the guidance between two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def correct(self, x: Tensor, step: object, predict: object) -> Tensor:
        self.seen.append(x.detach().clone())
        return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved_by", [(), ("label",), ("label", "hue")])
def test_the_correction_is_the_score_of_the_told_predictor_at_the_moved_sample(
    kind: str, moved_by: tuple[str, ...], tiny: TinyNetworks
) -> None:
    task, network = task_of(tiny), predictor(KINDS[kind]).eval()
    sampler, indices = arm_sampler(tiny, network, task), range(10, 15)
    before, after = Recorded(), Recorded()
    looks = [DPS(name, scale=0.2) for name in moved_by]
    run = sampler.sampler(Arm([before, TemporalAlignment(strength=0.1, conditions=looks), after]), indices)
    run.sample(task.space(indices, torch.device("cpu")), 0)
    x, moved, t = before.seen[0], before.seen[0], run.timesteps[0]
    conditions = task.conditions(indices, x.device)
    for name in moved_by:  # denoised again for each of them
        at = moved.clone().requires_grad_()
        likelihood = conditions[name].log_likelihood(sampler.denoiser(at, t).x0)
        moved = moved + 0.2 * torch.autograd.grad(likelihood.sum(), at)[0]
    hues, labels = torch.arange(10, 15) // 10 % 8, torch.arange(10, 15) % 10
    told = {name: {"hue": hues, "label": labels}[name] for name in KINDS[kind]}
    at = moved.clone().requires_grad_()
    log_posterior = network(at, **told).log_softmax(1)[:, t].sum()
    expected = x + 0.1 * torch.autograd.grad(log_posterior, at)[0]
    assert not torch.allclose(expected, x, atol=1e-7)
    torch.testing.assert_close(after.seen[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_and_measures_both_conditions(kind: str, tiny: TinyNetworks) -> None:
    sampler = arm_sampler(tiny, predictor(KINDS[kind]), task_of(tiny))
    arm = Arm([TemporalAlignment(strength=0.1, conditions=[DPS("label")]), DPS("label"), DPS("hue")])
    sampler.prepare()
    sampler.require_possible({"arm": arm})
    assert sampler.draw("arm", arm).figures.keys() >= {"accuracy", "accuracy_hue", "accuracy_all", "time_gap"}


def test_a_condition_that_the_task_does_not_ask_for_is_named_before_anything_is_drawn(tiny: TinyNetworks) -> None:
    arms = {"tag": Arm([TemporalAlignment(strength=0.1)])}
    plain = tiny_task(tiny).for_data(tiny_data()).for_samples(COUNT)
    ranged = tiny_task(tiny, further_targets={"ink": QuantityTarget(Ink(), at_least=0.3)})
    tasks = {"hue": (plain, {"hue": 8}), "ink": (ranged.for_data(tiny_data()).for_samples(COUNT), {"ink": 0})}
    for name, (task, conditions) in tasks.items():
        message = f"arm tag: SimpleCNN was trained with the condition '{name}', which is missing"
        with pytest.raises(ValueError, match=message):
            arm_sampler(tiny, predictor(conditions), task).require_possible(arms)
