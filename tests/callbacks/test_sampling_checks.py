"""What guided sampling refuses, before the training or at least before any sample is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning import Trainer
from sampling_runs import tiny_data, tiny_module, tiny_sampling, tiny_task, tiny_trainer
from tiny_runs import TIMESTEPS, TinyNetworks, seeded

from tag_lightning.callbacks import GuidedSampling
from tag_lightning.datamodules import MixtureDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.evaluation import Arm, ArmSampler, ImageTask, VectorTask
from tag_lightning.guidance import TemporalAlignment, TemporalAlignmentAfterStep
from tag_lightning.modules import TimePredictorModule
from tag_lightning.networks import MLPTimePredictor, SimpleCNN
from tag_lightning.pretrained import save_pretrained


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes drawing an arm an error of another kind."""

    def draw(*_: object) -> None:
        raise AssertionError("an arm was drawn")

    monkeypatch.setattr(ArmSampler, "draw", draw)


@pytest.mark.parametrize("name", ["", "a/b", "../../escape", ".hidden", "a\\b"])
def test_names_of_arms_that_are_no_file_names(name: str, tiny: TinyNetworks, tmp_path: Path) -> None:
    sampling = tiny_sampling(tiny, extra_arms={name: Arm()})
    with pytest.raises(ValueError, match=r"sampling\.arms has an arm named"):
        tiny_trainer(tmp_path / "run", sampling, max_epochs=1).fit(tiny_module(), datamodule=tiny_data())
    assert not list(tmp_path.rglob("*.png"))


def test_no_arms(tiny: TinyNetworks, tmp_path: Path) -> None:
    for verb in ("validate", "predict"):
        with pytest.raises(ValueError, match=r"sampling\.arms is empty"):
            getattr(tiny_trainer(tmp_path, tiny_sampling(tiny, arms={})), verb)(tiny_module(), datamodule=tiny_data())
    sampling = tiny_sampling(tiny, arms={}, extra_arms={"one": Arm()})
    tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data(), verbose=False)
    assert list(sampling.results) == ["one"]


def test_no_steps_are_not_the_steps_of_the_run(tiny: TinyNetworks, tmp_path: Path) -> None:
    sampling = tiny_sampling(tiny, arms={"few": Arm(num_steps=0)})
    with pytest.raises(ValueError, match=r"arm few: num_steps must lie in 1 \.\. 20"):
        tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data())


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize("kind", [TemporalAlignment, TemporalAlignmentAfterStep])
@pytest.mark.parametrize("verb", ["predict", "test"])
def test_a_strength_that_compares_needs_something_to_compare_with(
    verb: str, kind: Callable[[], TemporalAlignment], tiny: TinyNetworks, tmp_path: Path
) -> None:
    sampling = tiny_sampling(tiny, arms={"unguided": Arm(), "tag": Arm([kind()])})
    with pytest.raises(ValueError, match=r"arm tag: PolyakStrength needs .* validate it once .* another strength"):
        getattr(tiny_trainer(tmp_path, sampling), verb)(tiny_module(), datamodule=tiny_data())


def test_other_strengths_compare_with_nothing(tiny: TinyNetworks, tmp_path: Path) -> None:
    for k, sampling in enumerate(
        (
            tiny_sampling(tiny, strength=0.1),
            tiny_sampling(tiny, arms={"unguided": Arm(), "tag": Arm([TemporalAlignment(strength=0.1)])}),
            tiny_sampling(tiny, predict_arm="dps"),
        )
    ):
        tiny_trainer(tmp_path / str(k), sampling).predict(tiny_module(), datamodule=tiny_data())
        assert len(list((tmp_path / str(k)).rglob("*.npz"))) == 1


def test_a_predictor_that_was_never_measured_shows_before_the_training(tiny: TinyNetworks, tmp_path: Path) -> None:
    network = seeded(lambda: SimpleCNN(8, num_timesteps=TIMESTEPS, widths=(8, 8)), 0)
    save_pretrained(tmp_path / "fresh", network, LinearSchedule(num_timesteps=TIMESTEPS))
    module, sampling = tiny_module(), tiny_sampling(tiny, predictor=str(tmp_path / "fresh"))
    trainer = tiny_trainer(tmp_path, sampling, max_epochs=1)
    with pytest.raises(ValueError, match=r"arm corruption\+tag: PolyakStrength needs"):
        trainer.fit(module, datamodule=tiny_data())
    assert trainer.global_step == 0


def test_more_points_than_there_are_to_compare_with(tmp_path: Path) -> None:
    schedule = LinearSchedule(num_timesteps=100, beta_end=0.1)
    module = TimePredictorModule(MLPTimePredictor(), schedule)
    sampling = GuidedSampling(denoiser="toy/denoiser", task=VectorTask(), num_samples=1000)
    trainer = tiny_trainer(tmp_path, sampling, max_epochs=1)
    with pytest.raises(ValueError, match=r"sampling\.num_samples is 1000, .* there are 500"):
        trainer.fit(module, datamodule=MixtureDataModule(num_points=500))
    assert trainer.global_step == 0


def test_plain_dataloaders(tiny: TinyNetworks, tmp_path: Path) -> None:
    data = tiny_data()
    data.prepare_data()
    data.setup("validate")
    with pytest.raises(ValueError, match=r"GuidedSampling needs a datamodule"):
        tiny_trainer(tmp_path, tiny_sampling(tiny)).validate(tiny_module(), dataloaders=data.val_dataloader())


def test_a_denoiser_without_a_task(tiny: TinyNetworks, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, tiny_sampling(tiny, task=None), max_epochs=1)
    line = r"sampling\.task is not; add .* sampling: {task: {class_path: ImageTask}}"
    with pytest.raises(ValueError, match=line):
        trainer.fit(tiny_module(), datamodule=tiny_data())
    assert trainer.global_step == 0


def test_a_task_for_other_samples(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, GuidedSampling(denoiser="toy/denoiser", task=ImageTask()))
    message = r"ImageTask needs samples \[C, H, W\], but the data have samples of shape \[2\]; choose another task"
    module = TimePredictorModule(MLPTimePredictor(), LinearSchedule(num_timesteps=100, beta_end=0.1))
    with pytest.raises(ValueError, match=message):
        trainer.validate(module, datamodule=MixtureDataModule(num_points=500))


def test_settings_are_named_as_in_the_configuration(tiny: TinyNetworks, tmp_path: Path) -> None:
    sampling = tiny_sampling(tiny, task=tiny_task(tiny, labels=[10]))
    with pytest.raises(ValueError, match=r"^sampling\.task\.init_args\.labels must be classes 0 \.\. 9"):
        tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data())


def test_predict_without_a_denoiser(tmp_path: Path) -> None:
    trainer: Trainer = tiny_trainer(tmp_path, GuidedSampling())
    with pytest.raises(ValueError, match=r"predict draws samples: set sampling\.denoiser"):
        trainer.predict(tiny_module(), datamodule=tiny_data())
