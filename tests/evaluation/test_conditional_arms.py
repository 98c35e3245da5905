"""Arms of a conditional denoiser: which of them tell it what the task asks for, and what is refused before drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from sampling_runs import tiny_data, tiny_task
from tiny_runs import TIMESTEPS, UNET, TinyNetworks, seeded
from torch import Tensor

from tag_lightning.diffusion import DDIM, Conditioning, Guidance, LinearSchedule, Predict, Prediction, Step
from tag_lightning.evaluation import Arm, Results, compare
from tag_lightning.evaluation.chunk_store import ChunkStore
from tag_lightning.guidance import CFG, DPS, GFCG, AutoGuidance, DynamicCFG, TimeEvaluator
from tag_lightning.pretrained import save_pretrained

CFG = CFG(3.0)
COMMON: dict[str, Any] = {"num_samples": 6, "num_steps": 2, "chunk_size": 4, "progress": False, "solver": DDIM(0.0)}


class Overheard(Guidance):
    """Notes the condition of every batch."""

    def __init__(self, heard: list[list[int] | None]) -> None:
        super().__init__()
        self.heard = heard

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        told = step.space.denoiser_inputs.get("class_labels")
        self.heard.append(None if told is None else told.tolist())
        return predict(x, step.timestep)


def conditional(root: Path, classes: int = 10, dropout: float = 0.1) -> str:
    network = seeded(lambda: UNet2DModel(**UNET, num_class_embeds=classes + 1), 4)
    Conditioning.for_training(network, "label", dropout)
    save_pretrained(root, network, LinearSchedule(num_timesteps=TIMESTEPS))
    return str(root)


def drawn(tiny: TinyNetworks, denoiser: str | Path, arms: dict[str, Arm], **task: Any) -> Results:
    return compare(arms, denoiser, tiny_task(tiny, **task).for_data(tiny_data()), **COMMON)


def test_an_arm_tells_the_condition_where_its_guidance_needs_it_or_it_says_so(
    tiny: TinyNetworks, tmp_path: Path
) -> None:
    heard: dict[str, list[list[int] | None]] = {name: [] for name in ("unguided", "dps", "told", "cfg")}
    arms = {
        "unguided": Arm([Overheard(heard["unguided"])]),
        "dps": Arm([Overheard(heard["dps"]), DPS(scale=1.0)]),
        "told": Arm([Overheard(heard["told"])], conditional=True),
        "cfg": Arm([Overheard(heard["cfg"]), CFG]),
    }
    results = drawn(tiny, conditional(tmp_path), arms)
    assert heard["unguided"] == heard["dps"] == [None] * 4
    asked, rest = [0, 1, 2, 3], [4, 5, 5, 5]  # the last chunk is padded
    assert heard["told"] == [asked, asked, rest, rest]
    assert heard["cfg"] == [asked, None, asked, None, rest, None, rest, None]
    assert not torch.allclose(results["told"].samples, results["unguided"].samples)
    assert not torch.allclose(results["cfg"].samples, results["told"].samples)


def test_the_classes_of_the_task_are_those_that_are_told(tiny: TinyNetworks, tmp_path: Path) -> None:
    heard: list[list[int] | None] = []
    drawn(tiny, conditional(tmp_path), {"told": Arm([Overheard(heard)], conditional=True)}, labels=[7, 2])
    assert heard[0] == [7, 2, 7, 2]


def test_a_denoiser_that_cannot_do_without_is_always_told(tiny: TinyNetworks, tmp_path: Path) -> None:
    heard: list[list[int] | None] = []
    source = conditional(tmp_path, dropout=0.0)
    drawn(tiny, source, {"unguided": Arm([Overheard(heard)])})
    assert None not in heard
    with pytest.raises(ValueError, match=r"^arm a: CFG needs a denoiser .* dropped at random"):
        drawn(tiny, source, {"a": Arm([CFG])})


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Arm([CFG]), "CFG needs a denoiser that was trained with a condition dropped at random"),
        (Arm([DynamicCFG()]), "DynamicCFG needs a denoiser that was trained with a condition dropped at random"),
        (Arm([GFCG()]), "GFCG needs a conditional denoiser, which this one is not; take another"),
        (Arm(conditional=True), "conditional is true, but the denoiser is unconditional"),
    ],
)
def test_an_unconditional_denoiser_is_refused_before_anything_is_drawn(
    arm: Arm, message: str, tiny: TinyNetworks
) -> None:
    with pytest.raises(ValueError, match=f"^arm a: {message}"):
        drawn(tiny, tiny.root / "denoiser", {"plain": Arm(), "a": arm})


def test_what_the_denoiser_does_not_know_is_refused_before_anything_is_drawn(
    tiny: TinyNetworks, tmp_path: Path
) -> None:
    three = conditional(tmp_path / "three", classes=3)
    with pytest.raises(ValueError, match=r"^arm a: the denoiser knows the classes 0 \.\. 2 of 'label', but 0 \.\. 5"):
        drawn(tiny, three, {"a": Arm([CFG])})
    drawn(tiny, three, {"a": Arm([CFG])}, labels=[0, 2])
    with pytest.raises(ValueError, match=r"^arm a: the denoiser was trained with the condition 'label', which nothing"):
        drawn(tiny, three, {"a": Arm([CFG])}, attribute="hue", guide=None, judge=None, features="auto")
    with pytest.raises(ValueError, match=r"^arm a: conditional is false, but CFG strengthens the"):
        drawn(tiny, three, {"a": Arm([CFG], conditional=False)}, labels=[0])
    with pytest.raises(ValueError, match=r"^arm a: the classifier of GFCG tells 10 classes apart, but .* one of 3; "):
        drawn(tiny, three, {"a": Arm([GFCG()])}, labels=[0])
    with pytest.raises(ValueError, match=r"^arm a: TimeEvaluator has no time predictor: pass predictor"):
        drawn(tiny, three, {"a": Arm([DynamicCFG(evaluators=[TimeEvaluator()])])}, labels=[0])
    with pytest.raises(ValueError, match=r"^arm a: ConditionEvaluator has no condition: pass condition.* a guide$"):
        drawn(tiny, three, {"a": Arm([DynamicCFG()])}, labels=[0], guide=None)


def test_a_second_denoiser_is_named_by_path(tiny: TinyNetworks, tmp_path: Path) -> None:
    own = conditional(tmp_path / "own")
    arms = {
        "alone": Arm(conditional=True),
        "auto": Arm([AutoGuidance(own, 3.0)], conditional=True),
        "worse": Arm([AutoGuidance(str(tiny.root / "denoiser"), 3.0)], conditional=True),
    }
    results = drawn(tiny, own, arms)
    torch.testing.assert_close(results["auto"].samples, results["alone"].samples)
    assert not torch.allclose(results["worse"].samples, results["alone"].samples)
    with pytest.raises(FileNotFoundError, match="arm lost: no network under nowhere"):
        drawn(tiny, own, {"lost": Arm([AutoGuidance("nowhere")])})
    other = seeded(lambda: UNet2DModel(**UNET), 5)
    save_pretrained(tmp_path / "longer", other, LinearSchedule(num_timesteps=2 * TIMESTEPS))
    with pytest.raises(ValueError, match=r"^arm a: .*longer has T = 40 timesteps but the denoiser has 20"):
        drawn(tiny, own, {"a": Arm([AutoGuidance(str(tmp_path / "longer"))])})


def test_arms_that_differ_in_the_condition_alone_keep_their_own_chunks(tiny: TinyNetworks, tmp_path: Path) -> None:
    arms = {"told": Arm(conditional=True), "unguided": Arm()}
    source, task = conditional(tmp_path / "own"), tiny_task(tiny).for_data(tiny_data())
    results = compare(arms, source, task, **COMMON, store=ChunkStore(tmp_path / "chunks"))
    assert not torch.allclose(results["told"].samples, results["unguided"].samples)
