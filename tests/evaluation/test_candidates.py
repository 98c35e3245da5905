"""Best of n: the candidates of a sample, and the one that the guide keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import vector_space
from sampling_runs import tiny_data, tiny_task
from tiny_runs import TinyNetworks
from torch import nn

from tag_lightning.diffusion import DDIM
from tag_lightning.evaluation import Arm, ImageTask, Results, compare
from tag_lightning.evaluation.candidates import Likeliest, candidate_seed
from tag_lightning.guidance import Condition, Corruption

ARMS = {"first": Arm([Corruption(0.1)]), "best": Arm([Corruption(0.1)], best_of=3)}


def results_of(tiny: TinyNetworks, arms: dict[str, Arm], task: ImageTask | None = None, **settings: Any) -> Results:
    task = tiny_task(tiny) if task is None else task
    common = {"num_samples": 6, "num_steps": 3, "chunk_size": 4, "progress": False, "solver": DDIM(0.0), **settings}
    bound = task.for_data(tiny_data())
    return compare(arms, tiny.root / "denoiser", bound, predictor=tiny.root / "predictor", **common)


def test_the_candidate_with_the_highest_likelihood_is_kept_with_its_figures(tiny: TinyNetworks) -> None:
    best = results_of(tiny, ARMS)
    pool = [results_of(tiny, {"pool": ARMS["first"]}, seed=candidate_seed(0, k)) for k in range(3)]
    assert torch.equal(pool[0]["pool"].samples, best["first"].samples)
    task = best.task
    assert isinstance(task, ImageTask)
    condition = task.conditions(range(6), torch.device("cpu"))["label"]
    with torch.no_grad():
        chosen = torch.stack([condition.log_likelihood(drawn["pool"].samples) for drawn in pool]).argmax(0).tolist()
    assert len(set(chosen)) > 1
    for i, k in enumerate(chosen):
        assert torch.equal(best["best"].samples[i], pool[k]["pool"].samples[i])
        for name in ("gaps", "correct"):
            assert torch.equal(best["best"].rows[name][i], pool[k]["pool"].rows[name][i])


def test_a_lost_candidate_never_wins_and_the_first_wins_a_tie() -> None:
    likeliest = Likeliest(
        {"c": Condition(nn.Identity(), torch.zeros(3, 2), lambda o, _: -o[:, 0])}, vector_space([0, 1, 2])
    )
    rounds = [[[0.0, 1.0], [torch.nan, 1.0], [2.0, 1.0]], [[0.0, 2.0], [-5.0, 2.0], [torch.nan, 2.0]]]
    for x in rounds:
        kept = likeliest.add({"x": torch.tensor(x)})
    assert kept["x"][:, 1].tolist() == [1.0, 2.0, 1.0]
    assert set(kept) == {"x"}


def test_impossible_numbers_of_candidates_are_refused(tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match="arm none: best_of must be at least 1, got 0"):
        results_of(tiny, {"none": Arm(best_of=0)})
    unguided = ImageTask(judge=str(tiny.root / "judge"), features="judge")
    with pytest.raises(ValueError, match="arm many: best_of 2 needs a guide to choose by; give the task one, or set"):
        results_of(tiny, {"many": Arm(best_of=2)}, unguided)
