"""Every mistake ends in one line that names it, before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import TASK, TinyNetworks, predictor_arguments, seeded

from tag_lightning.cli import main
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import SimpleCNN
from tag_lightning.pretrained import save_pretrained

Failing = Callable[..., str]
WILD = "wild: {guidance: [{class_path: Corruption, init_args: {sigma: 1.0e+38}}]}"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (f"{TASK}.labels=[3,10]", "0 .. 9 of 'label', got [3, 10]"),
        (f"{TASK}.labels=[]", "0 .. 9"),
        ("--sampling.strength=-1", "error: sampling.strength must be a finite number of at least 0, got -1"),
        ("--sampling.scale=-2", "scale must be a finite number of at least 0, got -2"),
        ("--sampling.sigma=-1", "got -1"),
        ("--sampling.num_steps=21", "num_steps must lie in 1 .. 20"),
        ("--sampling.num_samples=1", "num_samples must be at least 2, got 1"),
        (f"{TASK}.attribute=colour", "'colour', but the data have hue, label"),
        (
            "--model.init_args.lr_scheduler={class_path: torch.optim.lr_scheduler.OneCycleLR, "
            "init_args: {max_lr: 0.001, total_steps: 1}}",
            "ends after 1 steps but the run takes 2: set --model.lr_scheduler.total_steps 2",
        ),
        ("--sampling.predict_arm=nope", "the arms are unguided, corruption"),
        ("--sampling.denoiser=digits/nope", "no network under digits/nope"),
        ("--sampling.extra_arms={a: {recurrence: 0}}", "arm a: recurrence must be at least 1, got 0"),
        ("--sampling.extra_arms={a: {sweep: {num_steps: []}}}", "arm a: sweep of num_steps is empty; give it at least"),
        (
            "--sampling.extra_arms={a: {guidance: [{class_path: DPS}], sweep: {scale: [1, -2]}}}",
            "arm a: sweep of scale: scale must be a finite number of at least 0, got -2",
        ),
        (
            "--sampling.extra_arms={a: {guidance: [{class_path: TemporalAlignment, init_args: {strength: -1}}]}}",
            "strength",
        ),
        ("--ckpt_path=tests", "checkpoint tests is a folder; give a .ckpt file"),
        (
            "--trainer.devices=0",
            "trainer.devices must be the number of processes, at least 1, on trainer.accelerator cpu, got 0",
        ),
        ("--trainer.limit_val_batches=2.5", "limit_val_batches"),
        ("--trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch must be at least 1, got 0"),
        ("--trainer.default_root_dir=null", "trainer.default_root_dir must be a folder, got null"),
        ("--data.init_args.size=9", "multiples of 2"),
        ("--data.init_args.tinted=false", "channels"),
        ("--data.init_args.batch_size=0", "batch_size must be at least 1, got 0"),
        ("--model.init_args.network.init_args.num_timesteps=30", "30 timesteps apart but the schedule has 20"),
        ("--model.init_args.network.init_args.sample_size=10", "multiple of 4"),
    ],
)
def test_impossible_settings(setting: str, named: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path) -> None:
    assert named in error_of(predictor_arguments("fit", tmp_path / "run", tiny, setting))
    assert not list((tmp_path / "run").rglob("*.json"))
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sampling.num_stepz=5"], "--sampling.num_stepz=5 (did you mean sampling.num_steps?)"),
        (["--data.init_args.sise=5"], "Option 'sise' is not accepted (did you mean size?)"),
        (["--model=TimePredictorModul"], "TimePredictorModul (did you mean TimePredictorModule?)"),
        (["--model=tag_lightning.modules.Nope"], "'tag_lightning.modules' has no attribute 'Nope'"),
        (["--model=tag_lightning.modules.PropertyModul"], "'PropertyModul' (did you mean PropertyModule?)"),
        (["--sampling.num_steps=many"], "error: sampling.num_steps must be a whole number, got many (usage"),
        (["--trainer.max_epochs=many"], "error: trainer.max_epochs must be a whole number or null, got many (usage"),
        ([f"{TASK}.labels=3"], "error: sampling.task.labels must be a list or null, got 3 (usage"),
        (["--data.init_args.batch_size=many"], "error: data.batch_size must be a whole number, got many (usage"),
        (["--data.init_args.tinted=maybe"], "error: data.tinted must be true or false, got maybe (usage"),
        (["--data.init_args.half=third"], "error: data.half must be one of first, second or null, got third (usage"),
        (["--trainer.precision=8"], "error: trainer.precision must be one of 64, 32, 16, transformer-engine, "),
        (["--sampling.arms=[1]"], "error: sampling.arms must be a mapping or null, got [1] (usage"),
        (["--sampling.solver=Euler"], "error: sampling.solver must be the name of a class, or its class_path and "),
        (
            ["--sampling.extra_arms={a: {sweep: {scale: [x]}}}"],
            "error: sampling.extra_arms.sweep must be a whole number or a number, got x (usage",
        ),
        (
            ["--sampling.extra_arms={a: {guidance: [{class_path: DPS, init_args: {scale: big}}]}}"],
            "error: sampling.extra_arms.guidance.scale must be a number, got big (usage",
        ),
        (
            ["--sampling.strength.omega_0=1"],
            "'tag_lightning.guidance.PolyakStrength': Option 'omega_0' is not accepted",
        ),
        (["--sampling.strength=PolyakStrengt"], "PolyakStrengt (did you mean PolyakStrength?)"),
        (["--sampling.arms.dps.num_steps=5"], "'dps.num_steps'"),
        (
            ["--sampling.extra_arms={a: {guidance: [{class_path: Corruption}]}}"],
            "'tag_lightning.guidance.Corruption': the following arguments are required: sigma",
        ),
        (
            ["configs/digits/guide.yaml"],
            "unrecognized arguments: configs/digits/guide.yaml (usage: fit --config NAME --OPTION",
        ),
        (["--optimizer=Adam"], "unrecognized arguments: --optimizer=Adam (usage: "),
        (["--config=nope.yaml"], "nope.yaml is neither a file nor the name of a shipped configuration; give the path"),
        (["--config=configs"], "configs is neither a file nor"),
        (
            ["--config=digits/guid"],
            "digits/guid is neither a file nor the name of a shipped configuration (did you mean",
        ),
        (["--config=digits/guid"], "(did you mean digits/guide or "),
        (["--sampling.extra_arms={a: {guidance: [{class_path: DPSS}]}}"], "DPSS (did you mean DPS?)"),
    ],
)
def test_mistyped_arguments(
    arguments: list[str], named: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path
) -> None:
    assert named in error_of(predictor_arguments("fit", tmp_path / "run", tiny, *arguments), code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sampling:\n  num_stepz: 5\n", "'sampling.num_stepz' (did you mean sampling.num_steps?)"),
        ("modle:\n  class_path: x\n", "'modle.class_path' (usage"),
        ("model:\n  init_args:\n    netwrk: 5\n", "'netwrk' is not accepted (did you mean network?)"),
        ("model: [\n", "config.yaml, line 2: "),
        ("trainer:\n\tmax_epochs: 2\n", "config.yaml, line 2: found character"),
        (
            "config: digits/guid\n",
            "digits/guid is neither a file nor the name of a shipped configuration (did you mean",
        ),
    ],
)
def test_mistyped_configuration_files(
    text: str, named: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    arguments = predictor_arguments("validate", tmp_path / "run", tiny, f"--config={tmp_path / 'config.yaml'}")
    assert named in error_of(arguments, code=2)


def test_options_before_the_verb(error_of: Failing) -> None:
    message = error_of(["--config=configs/digits/guide.yaml", "fit"], code=2)
    assert "is not accepted before subcommand 'fit' (usage: fit --config " in message


def test_whoever_asks_for_it_sees_what_led_to_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAG_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unrecognized arguments: --nope"):
        main(["fit", "--nope=1", "--config=configs/digits/guide.yaml"])
    with pytest.raises(ValueError, match="at least 2"):
        main(["fit", "--config=configs/digits/guide.yaml", "--sampling.num_samples=1"])


def test_a_command_without_a_model_or_a_verb(error_of: Failing) -> None:
    message = error_of(["fit"], code=2)
    assert "required: fit.model (usage: fit --config NAME --OPTION" in message
    assert "{fit,validate,test,predict}" in error_of([], code=2)
    assert "invalid choice: 'fitt'" in error_of(["fitt"], code=2)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_folder_that_cannot_be_written(verb: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    message = error_of(predictor_arguments(verb, tmp_path / "file" / "run", tiny))
    assert str(tmp_path / "file" / "run") in message
    assert "choose another folder" in message
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_untrained_weights_are_evaluated_only_on_demand(
    verb: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path
) -> None:
    asked = predictor_arguments(verb, tmp_path / "run", tiny, "--sampling.arms={unguided: {}}")
    named = (
        "needs weights: give --ckpt_path last, a checkpoint file, or a network's folder; --ckpt_path untrained takes"
    )
    assert named in error_of([argument for argument in asked if argument != "--ckpt_path=untrained"])
    assert not list((tmp_path / "run").rglob("*"))
    main(asked)


def test_a_configuration_that_is_not_text(error_of: Failing, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00model")
    named = f"{tmp_path / 'config.yaml'} is not UTF-8 text"
    assert named in error_of(["fit", f"--config={tmp_path / 'config.yaml'}"], code=2)


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_nan_from_a_predictor_costs_its_arm_alone(
    verb: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path
) -> None:
    broken = seeded(lambda: SimpleCNN(8, num_timesteps=20, widths=(8, 8)), 0)
    broken.typical_nll.fill_(1.0)
    for parameter in broken.parameters():  # finite, as far as a look at the weights can tell
        parameter.data.mul_(1e30)
    save_pretrained(tmp_path / "broken", broken, LinearSchedule(num_timesteps=20))
    predictor = f"--sampling.predictor={tmp_path / 'broken'}"
    with pytest.warns(UserWarning, match=r"^arm corruption\+tag: the time predictor returned NaN"):
        message = error_of(predictor_arguments(verb, tmp_path / "run", tiny, predictor))
    written = tmp_path / "run" / "results.json"
    assert f"3 of 7 arms failed, the others are in {written}: " in message
    told = "arm corruption+tag: the time predictor returned NaN or infinity at timestep 19 for 4 of 4 samples; check"
    assert told in message
    results = json.loads(written.read_text())
    assert list(results["arms"]) == ["unguided", "corruption", "dps", "adaptive length"]
    assert list(results["failed"]) == ["corruption+tag", "dps+tag", "adaptive length+tag"]
    assert results["failed"]["corruption+tag"].startswith(told)
    assert (tmp_path / "run" / "samples" / "dps.png").is_file()
    assert not (tmp_path / "run" / "samples" / "dps+tag.png").exists()


def test_a_failed_arm_does_not_fail_the_training(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match=r"^arm wild: .* NaN or infinity at timestep 19 .* It has no figures"):
        main(predictor_arguments("fit", tmp_path, tiny, f"--sampling.arms={{unguided: {{}}, {WILD}}}"))
    shown = capsys.readouterr().out
    assert "wild (failed)" in shown
    assert "(failed) arm wild: " in shown
    assert list(json.loads((tmp_path / "results.json").read_text())["failed"]) == ["wild"]
    assert (tmp_path / "pretrained" / "config.json").is_file()


def test_a_failed_evaluation_leaves_the_results_of_the_one_before(
    error_of: Failing, tiny: TinyNetworks, tmp_path: Path
) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, "--sampling.arms={unguided: {}}"))
    before = (tmp_path / "results.json").read_bytes()
    more_wild = WILD.replace("wild", "wilder")
    message = error_of(predictor_arguments("validate", tmp_path, tiny, f"--sampling.arms={{{WILD}, {more_wild}}}"))
    assert "arm wild: " in message
    assert "; all other arms failed as well: wilder" in message
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_failure_in_sampling_costs_no_training(
    epochs: int, error_of: Failing, tiny: TinyNetworks, tmp_path: Path
) -> None:
    arguments = predictor_arguments(
        "fit", tmp_path, tiny, f"--sampling.arms={{{WILD}}}", f"--trainer.max_epochs={epochs}"
    )
    assert "arm wild" in error_of(arguments)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2  # of the first epoch, which was sampled
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "pretrained").exists()


def test_the_command_ends_with_a_line_on_stderr_and_a_code_of_its_own(tiny: TinyNetworks, tmp_path: Path) -> None:
    arguments = predictor_arguments("validate", tmp_path, tiny, f"{TASK}.labels=[99]")
    command = [sys.executable, "-m", "tag_lightning", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("error: sampling.task.init_args.labels must be classes 0 .. 9")
    assert "Traceback" not in finished.stderr


def test_help_names_every_verb() -> None:
    command = [sys.executable, "-m", "tag_lightning", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0
    assert all(f"\n  {verb} " in finished.stdout for verb in ("fit", "validate", "test", "predict", "stages", "arms"))


def test_the_help_of_fit_says_what_each_group_of_options_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    titles = [line for line in capsys.readouterr().out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert "Comparison of ways of sampling, the arms, at validation:" in titles
    assert not [title for title in titles if title.startswith(("<class", "A DataModule"))]
