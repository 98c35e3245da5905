"""Sound by the command line: a folder of one's own through denoiser and comparison, and refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tag_lightning.cli import main

pytest.importorskip("soundfile")
pytestmark = pytest.mark.filterwarnings("ignore:fad is left out")

RATE, LENGTH = 1000, 64
ARMS = "{unguided: {}, dps+tag: {guidance: [{class_path: TemporalAlignment}, {class_path: DPS}]}}"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of short tones, ten training and four test files each."""
    root = tmp_path_factory.mktemp("sounds")
    for split, count in (("train", 10), ("test", 4)):
        for name, pitch in (("high", 200), ("low", 50)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                tone = 0.8 * np.sin(2 * np.pi * pitch * np.arange(2 * LENGTH) / RATE + i)
                wavfile.write(root / split / name / f"{i}.wav", RATE, (32767 * tone).astype(np.int16))
    return root


def arguments(stage: str, root: Path, run: Path, *more: str) -> list[str]:
    data = [f"--data.root={root}", f"--data.sample_rate={RATE}", f"--data.length={LENGTH}", "--data.batch_size=8"]
    trainer = ["max_steps=2", "val_check_interval=2", f"default_root_dir={run / stage}", "accelerator=cpu"]
    return ["fit", f"--config=my_audio/{stage}", *data, *(f"--trainer.{setting}" for setting in trainer), *more]


@pytest.fixture(scope="module")
def trained(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs in which the denoiser is trained."""
    run = tmp_path_factory.mktemp("runs")
    small = "--model.network={class_path: WaveformUNet, init_args: {fold: 4, block_out_channels: [8, 8]}}"
    main(arguments("denoiser", sounds, run, small))
    return run


def test_ones_own_sounds_are_restored_and_heard(sounds: Path, trained: Path) -> None:
    config = json.loads((trained / "denoiser" / "pretrained" / "config.json").read_text())
    assert config["sample_rate"] == RATE
    sampling = [f"denoiser={trained / 'denoiser' / 'pretrained'}", "time_gap_predictor=null", "task.judge=null"]
    sampling += ["num_steps=3", "num_samples=4", "task.measurement=MissingIntervals", f"arms={ARMS}"]
    more = [f"--sampling.{setting}" for setting in sampling]
    main(arguments("time_predictor", sounds, trained, "--model.network.widths=[4,8]", "--model.noise_draws=1", *more))
    folder = trained / "time_predictor"
    arms = json.loads((folder / "results.json").read_text())["arms"]
    assert arms["dps+tag"].keys() >= {"lsd", "snr", "si_sdr", "time_gap"}
    heard = {path.stem for path in (folder / "sounds").glob("*.wav")}
    assert heard == {"original", "measurement", "unguided", "dps+tag"}
    assert (folder / "arms.png").is_file()
    board = EventAccumulator(str(folder)).Reload()
    assert set(board.Tags()["audio"]) == {f"sounds/{name}" for name in heard}


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (
            8000,
            "has 1000 Hz but sample_rate is 8000; set data.init_args.sample_rate 1000, or resample the file to 8000 Hz",
        ),
        (0, "sample_rate must be at least 1 Hz, got 0"),
    ],
)
def test_another_sample_rate_is_refused_before_training(
    rate: int, message: str, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments("denoiser", sounds, tmp_path, f"--data.sample_rate={rate}"))
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert not (tmp_path / "denoiser" / "checkpoints").exists()


def test_a_denoiser_of_another_sample_rate_is_refused_before_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.sample_rate=2000", f"--data.length={LENGTH}", "--data.num_clips=40", "--sampling.num_steps=2"]
    networks = [f"--sampling.denoiser={trained / 'denoiser' / 'pretrained'}", "--sampling.time_gap_predictor=null"]
    folder = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--sampling.task.judge=null"]
    with pytest.raises(SystemExit):
        main(["fit", "--config=audio/time_predictor", *data, *networks, *folder])
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "a network (WaveformUNet) was trained at 1000 Hz but the data have 2000 Hz" in error
