"""The comparison over seeds, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import seeds
from benchmarks.seeds import aggregate, changes, differences, markdown, tables, with_tag_name
from tag_lightning.evaluation.results import ABSENT, REAL_DATA

RUNS = [
    {
        "dps": {"fid": 10.0, "accuracy": 0.5, "time_gap": 100.0},
        "dps+tag": {"fid": 8.0, "accuracy": 0.6, "time_gap": 60.0},
    },
    {
        "dps": {"fid": 20.0, "accuracy": 0.7, "time_gap": 110.0},
        "dps+tag": {"fid": 12.0, "accuracy": 0.7, "time_gap": 90.0},
    },
]


def test_mean_and_spread_are_over_the_runs() -> None:
    mean, spread = aggregate(RUNS)["dps"]["fid"]
    assert mean == 15.0
    assert spread == pytest.approx(50**0.5)


def test_changes_are_paired_and_in_the_units_they_claim() -> None:
    found = changes(RUNS)
    assert found.keys() == {"dps"}
    assert found["dps"]["fid"] == pytest.approx((-30.0, 200**0.5))
    assert found["dps"]["accuracy"] == pytest.approx((5.0, 50**0.5))
    assert found["dps"]["time_gap"] == pytest.approx((-30.0, 200**0.5))


def test_differences_are_those_of_each_run() -> None:
    found = differences(RUNS)["dps"]
    assert found["fid"] == pytest.approx([-20.0, -40.0])
    assert found["accuracy"] == pytest.approx([10.0, 0.0])
    assert found["time_gap"] == pytest.approx([-40.0, -20.0])


def test_the_markdown_has_a_row_for_every_arm_every_pair_and_every_seed() -> None:
    rows = markdown(tables(RUNS, [3, 4])).splitlines()
    assert "| dps+tag | 10.0 ± 2.8 | 65.0 ± 7.1 | 75.0 ± 21.2 |" in rows
    assert "| dps | -30.0 ± 14.1 | +5.0 ± 7.1 | -30.0 ± 14.1 |" in rows
    assert "| dps, seed 4 | -40.0 | +0.0 | -20.0 |" in rows


def test_a_metric_that_an_arm_lacks_leaves_a_dash_and_one_that_all_lack_no_column() -> None:
    runs = [{"drift": {"time_gap": 11.0}, "drift+tag": {"time_gap": 6.0 + i, "accuracy": 0.5}} for i in range(2)]
    rows = markdown(tables(runs, [0, 1])).splitlines()
    assert "| arm | accuracy % | Time-Gap |" in rows
    assert f"| drift | {ABSENT} | 11.0 ± 0.0 |" in rows
    assert f"| drift | {ABSENT} | -4.5 ± 0.7 |" in rows


def test_molecules_are_shown_by_stability_and_by_the_error_of_every_property() -> None:
    figures = {"mae_alpha": 3.0, "novelty": 0.9, "atom_stability": 0.5, "xtb_mae_mu": 1.5, "seconds": 0.1}
    runs = [{"dps": figures, "dps+tag": figures | {"atom_stability": 0.75, "mae_alpha": 2.0 + i}} for i in range(2)]
    rows = markdown(tables(runs, [0, 1])).splitlines()
    assert "| arm | atom stability % | novelty % | MAE alpha | xTB MAE mu |" in rows
    assert "| dps+tag | 75.0 ± 0.0 | 90.0 ± 0.0 | 2.50 ± 0.71 | 1.50 ± 0.00 |" in rows
    assert "| dps | +25.0 ± 0.0 | +0.0 ± 0.0 | -0.50 ± 0.71 | +0.00 ± 0.00 |" in rows


def test_sound_is_shown_by_its_distances_and_ratios() -> None:
    figures = {"lsd": 20.0, "snr": 6.0, "si_sdr": 5.0, "frechet": 300.0, "time_gap": 90.0}
    rows = markdown(tables([{"dps": figures, "dps+tag": figures | {"snr": 7.5, "frechet": 150.0}}] * 2, [0, 1]))
    assert "| arm | Frechet | LSD dB | SNR dB | SI-SDR dB | Time-Gap |" in rows
    assert "| dps | -50.0 ± 0.0 | +0.0 ± 0.0 | +1.5 ± 0.0 | +0.0 ± 0.0 | +0.0 ± 0.0 |" in rows


def test_a_metric_of_ones_own_is_shown_by_its_name() -> None:
    figures = {"fid": 9.0, "psnr": 20.0, "accuracy_hue": 0.5, "my_spread": 0.125, "seconds": 0.1, "num_samples": 8}
    rows = markdown(tables([{"dps": figures}] * 2, [0, 1])).splitlines()
    assert "| arm | FID | PSNR dB | accuracy hue % | my spread |" in rows
    assert "| dps | 9.0 ± 0.0 | 20.0 ± 0.0 | 50.0 ± 0.0 | 0.12 ± 0.00 |" in rows


def _write(out: Path, seed: int, changed: dict[str, Any] | None = None) -> None:
    (out / str(seed)).mkdir(parents=True)
    results = {"arms": RUNS[seed], "seed": seed} | (changed or {})
    (out / str(seed) / "results.json").write_text(json.dumps(results))


def test_every_seed_of_a_run_is_set_and_finished_runs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        _write(tmp_path, 1)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(seeds.subprocess, "run", run)
    _write(tmp_path, 0)
    more = ["--", "--config", "experiments/few_steps", "--sampling.num_steps", "50"]
    seeds.main(["--config=digits/guide", "--seeds", "0", "1", "--out", str(tmp_path), "--resume", "--markdown", *more])
    (command,) = commands
    assert command[1:] == [
        *("-m", "tag_lightning", "fit", "--config=digits/guide", *more[1:]),
        *("--seed_everything=1", "--model.init_args.seed=1", "--data.init_args.seed=1", "--sampling.seed=1"),
        f"--trainer.default_root_dir={tmp_path / '1'}",
    ]
    assert capsys.readouterr().out.strip() == markdown(tables(RUNS, [0, 1]))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["tag_by_seed"]["dps"]["fid"] == pytest.approx([-20.0, -40.0])


def test_a_comparison_of_saved_networks_seeds_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        _write(tmp_path, len(commands) - 1)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(seeds.subprocess, "run", run)
    seeds.main(["--verb=validate", "--config=qm9_small/comparison", "--seeds", "0", "1", "--out", str(tmp_path)])
    for seed, command in enumerate(commands):
        assert {f"--sampling.seed={seed}", f"--data.init_args.seed={seed}"} <= set(command)
        assert not any(word.startswith("--model") for word in command)  # the module has no seed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"seed": 7}, "was made with seed 7, not 1"),
        ({"arms": {"plain": {}}}, "has the arms plain but"),
        (None, "the run with seed 1 failed with exit code 3"),
    ],
)
def test_runs_that_cannot_be_compared_end_in_one_line(
    changed: dict[str, Any] | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(seeds.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    _write(tmp_path, 0)
    if changed is not None:
        _write(tmp_path, 1, changed)
    with pytest.raises(SystemExit) as exit_:
        seeds.main(["--seeds", "0", "1", "--out", str(tmp_path), "--resume"])
    assert exit_.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert expected in last


def test_a_run_without_samples_does_not_pass_for_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seeds.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    _write(tmp_path, 0)
    _write(tmp_path, 1)
    with pytest.raises(SystemExit):
        seeds.main(["--seeds", "0", "1", "--out", str(tmp_path)])
    assert "the run with seed 0 drew no samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arm", "partner"),
    [
        ("dps", "dps+tag"),
        ("dps scale=0.25", "dps+tag scale=0.25"),
        ("fixed length kappa=1", "fixed length+tag kappa=1"),
    ],
)
def test_an_arm_of_a_sweep_is_paired_with_that_of_the_same_value(arm: str, partner: str) -> None:
    assert with_tag_name(arm) == partner


def test_a_sweep_ends_in_a_frontier_of_all_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def arms(factor: float) -> dict[str, Any]:
        return {
            f"{curve} scale={scale}": {"accuracy": 0.2 * scale, "fid": cost * factor * 2.0**scale, "num_samples": 9}
            for curve, cost in (("dps", 10.0), ("dps+tag", 5.0))
            for scale in (1, 2, 4)
        }

    names = [(name, *name.split(" scale=")) for name in arms(1)]
    sweep = {name: {"curve": curve, "parameter": "scale", "value": int(value)} for name, curve, value in names}
    for seed in (0, 1):
        _write(tmp_path, seed, {"arms": arms(1 + seed), "sweep": sweep})
    seeds.main(["--seeds", "0", "1", "--out", str(tmp_path), "--resume", "--markdown"])
    printed = capsys.readouterr().out
    assert "| dps+tag | dps | accuracy | -50.0 |  | dps+tag |" in printed
    assert "| chosen on seed 0 for accuracy 0.8 | value | accuracy on seeds 1 | fid on seeds 1 |" in printed
    assert "| dps+tag | 4 | 0.8 | 160 |" in printed
    assert "| dps scale=2 | -50.0 ± 0.0 |" in printed
    merit = json.loads((tmp_path / "frontier.json").read_text())["merits"][0]
    assert merit["log_ratio"] == pytest.approx(-0.6931, abs=1e-4)
    assert (tmp_path / "frontier.png").is_file()


def test_a_seed_in_which_an_arm_failed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> SimpleNamespace:
        folder = Path(next(one for one in command if one.startswith("--trainer.default_root_dir=")).partition("=")[2])
        seed = int(folder.name)
        arms, failed = (RUNS[seed], {}) if seed == 0 else ({"dps": RUNS[1]["dps"]}, {"failed": {"dps+tag": "lost"}})
        _write(tmp_path, seed, {"arms": arms} | failed)
        return SimpleNamespace(returncode=int(bool(failed)))

    monkeypatch.setattr(seeds.subprocess, "run", run)
    seeds.main(["--verb", "validate", "--seeds", "0", "1", "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arms"]["dps"]["fid"][0] == 15.0
    assert "fid" not in summary["arms"]["dps+tag"]
    assert "fid" not in summary["tag_by_seed"]["dps"]
    for verb in ("fit", "validate"):
        monkeypatch.setattr(seeds.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
        with pytest.raises(SystemExit):
            seeds.main(["--verb", verb, "--seeds", "0", "1", "--out", str(tmp_path)])


def test_real_data_come_first_and_a_failed_arm_has_no_figures(tmp_path: Path) -> None:
    _write(tmp_path, 1, {"reference": {"fid": 1.0}, "failed": {"lost": "why"}})
    arms = seeds.arms_of(seeds.read_run(tmp_path / "1" / "results.json", 1))
    assert list(arms) == [REAL_DATA, "dps", "dps+tag", "lost"]
    assert arms["lost"] == {}
