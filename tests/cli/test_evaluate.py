"""``validate``, ``test`` and ``predict`` on finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import TinyNetworks, denoiser_arguments, predictor_arguments, seeded

from tag_lightning.cli import main
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import SimpleCNN
from tag_lightning.pretrained import load_pretrained, save_pretrained

METRICS = ("fid", "accuracy", "time_gap")


def _results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_validating_the_last_checkpoint_repeats_the_figures_of_fit(
    trained: Path, tiny: TinyNetworks, tmp_path: Path
) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"))
    expected, results = _results(trained), _results(tmp_path)
    assert results["stage"] == "val"
    for arm, figures in expected["arms"].items():
        assert {m: results["arms"][arm][m] for m in METRICS} == {m: figures[m] for m in METRICS}


def test_validating_the_exported_network_repeats_the_figures_of_fit(
    trained: Path, tiny: TinyNetworks, tmp_path: Path
) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, f"--ckpt_path={trained / 'pretrained'}"))
    expected, results = _results(trained), _results(tmp_path)
    for arm, figures in expected["arms"].items():
        assert {m: results["arms"][arm][m] for m in METRICS} == {m: figures[m] for m in METRICS}


def test_an_exported_network_of_another_architecture_is_refused(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(predictor_arguments("validate", tmp_path / "run", tiny, "--ckpt_path=digits/time_gap_predictor"))
    message = capsys.readouterr().err
    assert "digits/time_gap_predictor was made for another architecture: " in message
    assert "num_timesteps 1000 there and 20 here" in message


def test_test_samples_with_the_typical_likelihood_of_the_checkpoint(
    trained: Path, tiny: TinyNetworks, tmp_path: Path
) -> None:
    main(predictor_arguments("test", tmp_path, tiny, f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"))
    expected, results = _results(trained), _results(tmp_path)
    assert results["stage"] == "test"
    for arm, figures in expected["arms"].items():
        assert {m: results["arms"][arm][m] for m in METRICS} == {m: figures[m] for m in METRICS}


@pytest.mark.parametrize("arm", ["unguided", "dps+tag"])
def test_predict_writes_the_samples_of_one_arm(
    arm: str, trained: Path, tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
    main(predictor_arguments("predict", tmp_path, tiny, checkpoint, f"--sampling.predict_arm={arm}"))
    with np.load(tmp_path / "samples" / f"{arm}.npz") as archive:
        samples = archive["samples"]
    assert samples.shape == (6, 3, 8, 8)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert len(np.unique(samples.reshape(6, -1), axis=0)) == 6
    with Image.open(tmp_path / "samples" / f"{arm}.png") as picture:
        assert picture.mode == "RGB"
    assert not (tmp_path / "results.json").exists()
    assert f"{arm}.npz" in capsys.readouterr().out


def test_predict_draws_the_samples_that_fit_has_shown(trained: Path, tiny: TinyNetworks, tmp_path: Path) -> None:
    main(predictor_arguments("predict", tmp_path, tiny, f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"))
    with (
        Image.open(tmp_path / "samples" / "adaptive length+tag.png") as drawn,
        Image.open(trained / "samples" / "adaptive length+tag.png") as shown,
    ):
        assert np.array_equal(np.asarray(drawn), np.asarray(shown))


def test_tag_changes_samples_under_predict(trained: Path, tiny: TinyNetworks, tmp_path: Path) -> None:
    samples = {}
    for arm in ("dps", "dps+tag"):
        checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
        strong = ["--sampling.strength=5", "--sampling.scale=50"]
        main(predictor_arguments("predict", tmp_path, tiny, checkpoint, f"--sampling.predict_arm={arm}", *strong))
        samples[arm] = np.load(tmp_path / "samples" / f"{arm}.npz")["samples"]
    assert np.abs(samples["dps"] - samples["dps+tag"]).max() > 1e-3


def test_an_arm_is_added_by_a_configuration_file_alone(tiny: TinyNetworks, tmp_path: Path) -> None:
    guidance = [
        {"class_path": "tag_lightning.guidance.Corruption", "init_args": {"sigma": 0.5}},
        {"class_path": "tag_lightning.guidance.TemporalAlignment", "init_args": {"strength": 0.3}},
        {"class_path": "tag_lightning.guidance.DPS"},
    ]
    config = tmp_path / "arm.yaml"
    config.write_text(yaml.safe_dump({"sampling": {"extra_arms": {"mine": {"guidance": guidance, "num_steps": 3}}}}))
    main(predictor_arguments("validate", tmp_path / "run", tiny, f"--config={config}"))
    results = _results(tmp_path / "run")
    assert list(results["arms"])[-2:] == ["adaptive length+tag", "mine"]
    assert results["arms"]["mine"].keys() == results["arms"]["dps"].keys()
    assert (tmp_path / "run" / "samples" / "mine.png").is_file()


def test_arms_replace_the_default_ones(tiny: TinyNetworks, tmp_path: Path) -> None:
    arms = "{plain: {}, guided: {guidance: [{class_path: DPS, init_args: {scale: 2}}]}}"
    main(predictor_arguments("validate", tmp_path, tiny, f"--sampling.arms={arms}"))
    assert list(_results(tmp_path)["arms"]) == ["plain", "guided"]


def test_validate_prints_the_figures_of_the_network_below_the_arms_and_none_twice(
    tiny: TinyNetworks, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, "--sampling.arms={plain: {}}"))
    printed, told = capfd.readouterr()
    table, figures = printed.split("val/loss=")
    assert "plain" in table
    assert f"Results and pictures are in {tmp_path}\n" in table
    assert "val/time_gap=" in figures
    assert "plain" not in figures
    assert "Tip: " not in printed + told
    assert "LeafSpec" not in told


def test_validate_prints_no_figures_of_the_network_if_it_is_not_verbose(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, "--sampling.arms={plain: {}}", "--verbose=false"))
    printed = capsys.readouterr().out
    assert "plain" in printed
    assert "val/loss" not in printed


def test_arms_of_the_same_settings_get_the_same_noise(tiny: TinyNetworks, tmp_path: Path) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, "--sampling.arms={first: {}, second: {}}"))
    first, second = (_results(tmp_path)["arms"][arm] for arm in ("first", "second"))
    assert {m: first[m] for m in METRICS} == {m: second[m] for m in METRICS}


def test_figures_change_with_the_seed_of_sampling_only(tiny: TinyNetworks, tmp_path: Path) -> None:
    for name, more in {"a": [], "b": ["--seed_everything=5"], "c": ["--sampling.seed=5"]}.items():
        fixed = "--sampling.predictor=" + str(tiny.root / "predictor")
        arms = "--sampling.arms={unguided: {}}"
        main(predictor_arguments("validate", tmp_path / name, tiny, fixed, arms, *more))
    fid = {name: _results(tmp_path / name)["arms"]["unguided"]["fid"] for name in "abc"}
    assert fid["a"] == fid["b"]
    assert fid["a"] != fid["c"]


def test_a_second_time_predictor_measures_where_one_is_given(tiny: TinyNetworks, tmp_path: Path) -> None:
    other = seeded(lambda: SimpleCNN(8, num_timesteps=20, widths=(8, 8)), 9)
    other.typical_nll.fill_(1.0)
    save_pretrained(tmp_path / "other", other, LinearSchedule(num_timesteps=20))
    gaps = {}
    for source in (tmp_path / "other", tiny.root / "predictor"):
        arguments = [f"--sampling.time_gap_predictor={source}", "--sampling.arms={unguided: {}}"]
        main(predictor_arguments("validate", tmp_path / "run", tiny, *arguments))
        gaps[source.name] = _results(tmp_path / "run")["arms"]["unguided"]["time_gap"]
        assert _results(tmp_path / "run")["time_gap_by"] == "second predictor"
    assert gaps["other"] != gaps["predictor"]


def test_sampling_sees_the_averaged_weights_of_a_denoiser(tiny: TinyNetworks, tmp_path: Path) -> None:
    average = "{class_path: EMAWeightAveraging, init_args: {decay: 0.5, update_every_n_steps: 1}}"
    optimizer = ["--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.lr=0.5"]
    judged = [f"--sampling.task.init_args.judge={tiny.root / 'judge'}"]
    settings = [*optimizer, *judged]
    fit = tmp_path / "fit"
    main(denoiser_arguments("fit", fit, f"--trainer.callbacks=[{average}]", *settings))
    saved = torch.load(fit / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, raw = saved["state_dict"], saved["current_model_state"]
    assert any(not torch.equal(averaged[name], raw[name]) for name in averaged)

    main(
        denoiser_arguments("validate", tmp_path / "val", f"--ckpt_path={fit / 'checkpoints' / 'last.ckpt'}", *settings)
    )
    during, after = _results(fit)["arms"]["unguided"], _results(tmp_path / "val")["arms"]["unguided"]
    assert during["fid"] == after["fid"]
    folder = load_pretrained(fit / "pretrained").network.state_dict()
    assert all(torch.equal(folder[name], averaged[f"network.{name}"]) for name in folder)
