"""The verb ``stages``: all stages of one's own images and molecules by one command, which goes on where it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tag_lightning import stages
from tag_lightning.cli import main as run_verb
from tag_lightning.pretrained import load_pretrained
from tag_lightning.stages import Experiment, main

ALL = ["guide", "judge", "denoiser", "time_gap_predictor", "noise_level", "time_predictor"]
SMILES = ["C", "N", "O", "CC", "CO", "CN", "CS", "C=O", "C#N", "S", "C#C", "CF"]


def network(**settings: object) -> dict:
    return {"model": {"init_args": {"network": {"init_args": settings}}}}


UNET = network(
    block_out_channels=[8, 8],
    down_block_types=["DownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "UpBlock2D"],
    norm_num_groups=4,
    attention_head_dim=4,
    layers_per_block=1,
)
COMMON = {
    "trainer": {"accelerator": "cpu", "max_steps": 2, "val_check_interval": 2, "enable_progress_bar": False},
    "sampling": {"num_samples": 4, "chunk_size": 4, "num_steps": 3},
}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run, in this process instead of in others."""
    commands: list[list[str]] = []

    def run(arguments: Sequence[str]) -> int:
        commands.append(list(arguments))
        try:
            run_verb(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        return 0

    monkeypatch.setattr(stages, "_run", run)
    return commands


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grey images of three classes, the settings of small networks for them; its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 1)):
        for name in "abc":
            folder = Path("photos", split, name)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8)).save(folder / f"{i}.png")
    small = {"guide": network(widths=[8, 8]), "judge": network(widths=[8, 16]), "denoiser": UNET}
    for name in ("time_gap_predictor", "noise_level", "time_predictor"):
        small[name] = network(widths=[8, 8])
        small[name]["model"]["init_args"]["noise_draws"] = 1
    task = {"task": {"init_args": {"features": "judge"}}}
    Path("small.yaml").write_text(yaml.safe_dump({**COMMON, "sampling": COMMON["sampling"] | task, **small}))
    return tmp_path


PHOTOS = ["--config=my_images", "--config=small.yaml", "--out=runs/photos", "--data.root=photos", "--data.size=16"]
PHOTOS += ["--data.channels=1", "--data.batch_size=8", "--data.cache=null"]


def verbs(commands: list[list[str]]) -> list[str]:
    return [Path(command[-1 if command[-1].startswith("--trainer") else -2]).name for command in commands]


def test_images_go_through_all_stages_and_on_from_where_they_were_cut(
    photos: Path, ran: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    cut = "{class_path: tiny_runs.SignalSender, init_args: {hook: on_train_batch_end, step: 1, signum: 15}}"
    with pytest.raises(SystemExit) as end:
        main([*PHOTOS, f"--denoiser.trainer.callbacks=[{cut}]"])
    assert end.value.code == 143
    assert verbs(ran) == ALL[:3]
    assert "Stage 3 of 6, denoiser: ended with exit code 143" in capsys.readouterr().err
    ran.clear()
    main(PHOTOS)
    assert verbs(ran) == ALL[2:]
    assert ran[0][-1] == "--ckpt_path=last"
    assert not any("--ckpt_path" in word for command in ran[1:] for word in command)
    results = json.loads(Path("runs/photos/time_predictor/results.json").read_text())
    assert results["arms"].keys() == {"unguided"} | {
        f"{process}{repair}"
        for process in ("corruption", "dps", "adaptive length")
        for repair in ("", "+tag", "+retiming")
    }
    networks = {name: load_pretrained(f"runs/photos/{name}/pretrained").network for name in ALL}
    assert networks["guide"].num_classes == networks["judge"].num_classes == 3
    assert networks["denoiser"].config.in_channels == networks["denoiser"].config.out_channels == 1
    assert networks["time_predictor"].config.sample_size == networks["denoiser"].config.sample_size == 16
    settings = yaml.safe_load(Path("runs/photos/time_predictor/config.yaml").read_text())["sampling"]
    assert settings["denoiser"] == "runs/photos/denoiser/pretrained"
    assert settings["task"]["init_args"]["judge"] == "runs/photos/judge/pretrained"


def test_molecules_go_through_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[list[str]]) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{smiles},{index}" for index, smiles in enumerate(SMILES * 2)]
    Path("mols.csv").write_text("\n".join(["smiles,score", *rows]))
    small = {name: network(width=8, num_layers=1) for name in ALL} | {"denoiser": network(width=8, num_blocks=1)}
    for name in ("time_gap_predictor", "noise_level", "time_predictor"):
        small[name]["model"]["init_args"]["noise_draws"] = 1
    Path("small.yaml").write_text(yaml.safe_dump(COMMON | small))
    data = ["--data.path=mols.csv", "--data.properties=[score]", "--data.elements=[H,C,N,O,F,S]", "--data.batch_size=8"]
    main(["--config=my_molecules", "--config=small.yaml", *data])
    results = json.loads(Path("runs/my_molecules/time_predictor/results.json").read_text())
    assert list(results["arms"]) == [
        "unguided", "corruption", "corruption+tag", "corruption+retiming", "guided", "guided+tag", "guided+retiming"
    ]  # fmt: skip
    assert all("mae_score" in figures for figures in results["arms"].values())
    assert load_pretrained("runs/my_molecules/guide/pretrained").network.config.num_features == 6
    assert load_pretrained("runs/my_molecules/denoiser/pretrained").network.config.num_features == 6


def test_a_run_that_ends_between_two_validations_is_compared_after_all(photos: Path, ran: list[list[str]]) -> None:
    uncompared = [*PHOTOS, "--only", "time_predictor", "--trainer.val_check_interval=50", "--trainer.max_steps=1"]
    nothing = ["--sampling.task.guide=null", "--sampling.task.judge=null", "--sampling.task.features=pixels"]
    shipped = [
        "--sampling.denoiser=digits/denoiser",
        "--sampling.time_gap_predictor=null",
        "--sampling.noise_level=null",
    ]
    grey = ["--data.channels=3", "--model.network.in_channels=3"]
    main([*uncompared, *nothing, *shipped, *grey])
    assert [command[0] for command in ran] == ["fit", "validate"]
    assert "corruption+tag" in json.loads(Path("runs/photos/time_predictor/results.json").read_text())["arms"]


def test_a_stage_cut_between_its_last_checkpoint_and_its_network_still_leaves_it(
    photos: Path, ran: list[list[str]]
) -> None:
    averaged = "--trainer.callbacks=[{class_path: WarmedUpEMA, init_args: {decay: 0.5}}]"
    guide = [*PHOTOS, "--only", "guide", averaged]
    main(guide)
    weights = Path("runs/photos/guide/pretrained/diffusion_pytorch_model.safetensors")
    expected = weights.read_bytes()
    shutil.rmtree(weights.parent)
    main(guide)
    assert ran[1][-1] == "--ckpt_path=last"
    assert weights.read_bytes() == expected


def make_finished(stage: str) -> None:
    folder = Path("runs/photos", stage, "pretrained")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def test_finished_stages_are_skipped_and_say_what_they_were_made_without(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: Sequence[str]) -> int:
        make_finished(Path(arguments[-1]).name)
        return 0

    monkeypatch.setattr(stages, "_run", run)
    main(PHOTOS)
    assert capsys.readouterr().out.count(": into runs/photos/") == 6
    main([*PHOTOS, "--guide.model.noise=0.2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if ": into" in line] == []
    assert [line for line in lines if "without" in line] == [
        "  without --model.noise=0.2; remove runs/photos/guide to train it again"
    ]
    main([*PHOTOS, "--time_predictor.sampling.num_steps", "5", "--denoiser.model.seed", "1"])
    assert [line for line in capsys.readouterr().out.splitlines() if "without" in line] == [
        "  without --model.seed 1; remove runs/photos/denoiser to train it again",
        "  without --sampling.num_steps 5; to sample with that: python -m tag_lightning validate "
        "--config runs/photos/time_predictor/config.yaml --ckpt_path last --sampling.num_steps 5",
    ]
    Path("runs/photos/judge/stage.yaml").write_text("{configuration: {}, arguments: []}")
    main(PHOTOS)
    assert "without today's" in capsys.readouterr().out


def test_a_comparison_that_is_still_to_be_drawn_takes_todays_settings(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(arguments: Sequence[str]) -> int:
        commands.append(list(arguments))
        if arguments[0] == "validate":
            return 130  # interrupted
        folder = Path(arguments[-1].partition("=")[2])
        make_finished(folder.name)
        (folder / "config.yaml").write_text(yaml.safe_dump({"sampling": {"denoiser": "a", "task": "ImageTask"}}))
        return 0

    monkeypatch.setattr(stages, "_run", run)
    for more in ([], ["--time_predictor.sampling.num_steps", "5", "--model.seed", "1"]):
        with pytest.raises(SystemExit):
            main([*PHOTOS, "--only", "time_predictor", *more])
    first, second = (command for command in commands if command[0] == "validate")
    assert second == [*first, "--sampling.num_steps", "5"]
    lines = capsys.readouterr().out.splitlines()
    assert "Comparing the arms, since the training ended before it did, with --sampling.num_steps 5" in lines
    assert [line for line in lines if "without" in line] == [
        "  without --model.seed 1; remove runs/photos/time_predictor to train it again"
    ]


def test_a_network_that_another_stage_has_still_to_train_is_named_in_a_short_line(
    photos: Path, ran: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*PHOTOS, "--only", "denoiser"])
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "no network under runs/my_images/judge/pretrained: the run runs/my_images/judge has not ended yet" in line
    assert "fit it first (with stages, add judge to --only)" in line
    assert len(line) < 300


def test_every_stage_takes_the_networks_of_the_others(photos: Path) -> None:
    options = [("sampling.num_steps", ["--sampling.num_steps=5"]), ("data.size", ["--data.size", "8"])]
    experiment = Experiment("digits", Path("mine"), [], options, None)
    assert experiment.stages == ALL
    arguments = {name: " ".join(experiment.arguments(name)) for name in ALL}
    assert "mine" not in arguments["guide"].replace("mine/guide", "")
    assert "judge: mine/judge/pretrained" in arguments["denoiser"]
    assert "guide:" not in arguments["denoiser"]
    for role in ALL[:5]:
        assert f"{role}: mine/{role}/pretrained" in arguments["time_predictor"]
    assert all("--data.size 8" in line for line in arguments.values())
    assert {name for name, line in arguments.items() if "num_steps" in line} == {"denoiser", "time_predictor"}


def test_the_regressor_of_the_noise_level_is_a_stage_where_another_names_it(photos: Path) -> None:
    assert Experiment("my_images", None, [], [], None).stages == ALL
    assert Experiment("cifar10", None, [], [], None).stages == [*ALL[:4], "time_predictor"]


def test_a_folder_of_data_with_the_name_of_an_experiment_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("qm9").mkdir()
    Path("qm9/gdb9.sdf").write_text("")
    assert {"guide", "denoiser"} <= Experiment("qm9", None, [], [], None).files.keys()
    Path("qm9/guide.yaml").write_text("model: {}\n")
    assert Experiment("qm9", None, [], [], None).files.keys() == {"guide"}


def test_a_network_named_by_the_user_stays(photos: Path) -> None:
    options = [("sampling.task.judge", ["--sampling.task.judge=other"])]
    options += [("time_predictor.sampling.denoiser", ["--time_predictor.sampling.denoiser", "theirs"])]
    words = Experiment("my_images", None, ["{sampling: {noise_level: third}}"], options, None).arguments(
        "time_predictor"
    )
    layers = " ".join(words)
    assert layers.index("judge: runs/") < layers.index("--sampling.task.judge=other")
    assert layers.index("denoiser: runs/") < layers.index("--sampling.denoiser theirs")
    assert "noise_level: third" in layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=mine"], "mine is neither a folder of configurations nor the name of a shipped experiment"),
        (["--config=experiments"], "molecules, my_audio, my_images, my_molecules"),
        (["--config=my_images", "--config=lost.yaml"], "lost.yaml is neither a file nor"),
        (["--config=my_images", "--only", "guide", "prior"], "has no stage prior"),
        (["--config=my_images", "--only", "judge", "--guide.model.noise=1"], "guide is not among the stages judge"),
        (["--config=my_images", "--trainer.default_root_dir=here"], "give --out"),
        (["--config=my_images", "--trainer.fast_dev_run=true"], "leaves no networks"),
        (["--config=my_images", "--ckpt_path=last"], "goes on by itself"),
        (["--config=my_images", "photos"], "unrecognized arguments: photos"),
        (["photos", "--config=my_images"], "photos belongs to no option"),
        ([], "the following arguments are required: -c/--config"),
        (["--config=my_images", "--config=[1]"], "[1] is neither a file nor"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    photos: Path, arguments: list[str], message: str, ran: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    written = capsys.readouterr().err
    assert message in written
    assert written.count("\n") == 1
    assert ran == []


def test_a_base_that_leads_back_to_itself_is_one_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine", "guide.yaml").write_text("base: mine/judge.yaml")
    Path("mine", "judge.yaml").write_text("base: mine/guide.yaml")
    with pytest.raises(SystemExit) as end:
        main(["--config=mine"])
    assert end.value.code == 2
    assert "leads back to itself; name another configuration\n" in capsys.readouterr().err


def test_the_exit_code_of_the_failing_stage_is_passed_on(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "_COMMAND", (sys.executable, "-c", "raise SystemExit(7)"))
    with pytest.raises(SystemExit) as end:
        main(PHOTOS)
    assert end.value.code == 7
    assert "Stage 1 of 6, guide: ended with exit code 7" in capsys.readouterr().err


def test_a_signal_reaches_the_stage(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit) as end:
        main(PHOTOS)
    assert end.value.code == 143
