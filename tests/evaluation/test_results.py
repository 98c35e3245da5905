import io
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tag_lightning.evaluation import ArmResult, ImageTask, Results, results
from tag_lightning.evaluation.report import write_results
from tag_lightning.evaluation.results import print_results, results_table, versions
from tag_lightning.files import require_writable

ARMS = {
    "unguided": {"fid": 71.23456, "time_gap": 43.0123, "seconds": 12.345, "num_samples": 512, "accuracy": None},
    "dps+tag": {"fid": 1.2e-5, "accuracy": 0.6133, "time_gap": math.nan, "seconds": 1234.5, "num_samples": 512},
    "molecules": {"mae_mu": 4780.5, "features": "judge", "curve": [1.0, 2.0]},
}


@dataclass
class Settings:
    steps: int
    folder: Path


def refuse(constant):
    raise AssertionError(f"not strict JSON: {constant}")


def read(path):
    return json.loads(path.read_text(), parse_constant=refuse)


def printed(arms, **kwargs):
    stream = io.StringIO()
    print_results(arms, file=stream, **kwargs)
    return stream.getvalue()


def cells(table):
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def test_payload_holds_the_contract(tmp_path):
    task = ImageTask()
    task.seed = 3
    arms = {name: ArmResult(figures, [], None, torch.zeros(0)) for name, figures in ARMS.items()}
    results = Results(arms, task, None, "second predictor")
    results.save_figures(tmp_path / "run", {"sampling": {"num_steps": 50}}, stage="val", global_step=7)
    payload = read(tmp_path / "run" / "results.json")
    assert list(payload)[:4] == ["arms", "seed", "config", "versions"]
    further = {"stage", "global_step", "features", "num_reference", "reference", "time_gap_by"}
    assert set(payload) == {"arms", "seed", "config", "versions"} | further
    assert (payload["stage"], payload["global_step"], payload["time_gap_by"]) == ("val", 7, "second predictor")
    assert payload["arms"]["unguided"]["fid"] == 71.23456
    assert (payload["seed"], payload["config"]["sampling"]["num_steps"]) == (3, 50)
    assert payload["versions"] == versions()


def test_what_json_does_not_know(tmp_path):
    path = tmp_path / "results.json"
    write_results(
        path,
        {
            "nan": math.nan,
            "deep": [{"inf": -math.inf}],
            "tensor": torch.tensor([1.5, math.nan]),
            "scalar": torch.tensor(2, dtype=torch.int32),
            "array": np.array([[1, 2]]),
            "number": np.float32(0.5),
            "flag": np.bool_(True),
            "path": Path("a/b"),
            "settings": Settings(5, Path("c")),
            "dtype": torch.float32,
            1: (None, True),
        },
    )
    assert read(path) == {
        "nan": None,
        "deep": [{"inf": None}],
        "tensor": [1.5, None],
        "scalar": 2,
        "array": [[1, 2]],
        "number": 0.5,
        "flag": True,
        "path": "a/b",
        "settings": {"steps": 5, "folder": "c"},
        "dtype": "torch.float32",
        "1": [None, True],
    }


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "results.json"
    write_results(path, {"seed": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_results(path, {"seed": 2})
    assert str(tmp_path) in str(error.value)
    assert read(path) == {"seed": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(path, {"seed": 1})

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_results(path, {"seed": 2})
    assert read(path) == {"seed": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    for attempt in (lambda: require_writable(folder), lambda: write_results(folder / "results.json", {})):
        with pytest.raises(OSError, match="choose another folder") as error:
            attempt()
        assert str(folder) in str(error.value)


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    require_writable(tmp_path / "new" / "run")
    require_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_versions_name_what_influences_results(monkeypatch):
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"python", "torchvision", "lightning", "torchmetrics", "diffusers", "tag_lightning"} < found.keys()
    assert all(found.values())
    monkeypatch.setattr(results, "PACKAGES", ("no-such-package",))
    assert versions()["no-such-package"] is None


def test_table_has_the_columns_that_exist_and_dashes_elsewhere():
    shown = cells(results_table(ARMS))
    assert list(shown) == ["arm", "fid", "accuracy", "time_gap", "mae_mu", "features", "seconds", "num_samples"]
    assert shown["fid"] == ["71.23", "1.2e-05", "–"]  # noqa: RUF001
    assert shown["accuracy"] == ["–", "0.6133", "–"]  # noqa: RUF001
    assert shown["time_gap"][1] == "nan"
    assert shown["mae_mu"][2] == "4780"
    assert shown["seconds"][:2] == ["12.3", "1.23e+03"]
    assert shown["num_samples"][:2] == ["512", "512"]


def test_table_without_arms_is_empty():
    assert list(cells(results_table({}))) == ["arm"]


def test_nothing_is_cut_where_the_output_is_no_terminal():
    arms = {f"arm with a long name {i}": {f"mae_of_a_property_{k}": i + k / 7 for k in range(20)} for i in range(3)}
    text = printed(arms, title="All arms")
    assert "All arms" in text
    assert all(name in text for name in [*arms, *arms["arm with a long name 0"]])
    assert len({len(line) for line in text.splitlines()[1:]}) == 1


def test_a_terminal_shows_columns_that_do_not_fit_below(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "dumb")  # 80 columns, whatever the environment says
    arms = {f"arm {i}": {f"mae_of_property_{k}": i + k / 7 for k in range(9)} for i in range(3)}
    stream = Terminal()
    print_results(arms, "All arms", stream)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("arm 1" in line for line in lines) > 1
    for name in arms["arm 0"]:
        assert sum(name in line for line in lines) == 1
    assert stream.getvalue().count("All arms") == 1


def test_brackets_in_names_are_text():
    text = printed({"tag[bold]": {"fid": 1.0, "kind": "[red]"}}, title="step [3]")
    assert "tag[bold]" in text
    assert "[red]" in text
    assert "step [3]" in text


def test_output_that_knows_no_dashes():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_results(ARMS, file=stream)
    stream.flush()
    assert b"dps+tag" in raw.getvalue()


def test_published_figures_stand_beside_ours_in_table_and_files(tmp_path):
    figures = {"dps": {"fid": 20.5, "accuracy": 0.7, "num_samples": 64}, "tfg": {"fid": 11.0, "num_samples": 64}}
    arms = {name: ArmResult(values, [], None, torch.zeros(0)) for name, values in figures.items()}
    task = ImageTask()
    task.seed = 0
    theirs = {"dps": {"fid": 217.1, "is": 1.5}, "absent": {"fid": 1.0}}
    results = Results(arms, task, None, "second predictor", published=theirs)
    shown = str(results)
    assert re.search(r"fid +. fid \(paper\) +. accuracy +. num_samples", shown)
    assert "217.1" in shown
    assert "absent" not in shown
    results.save_figures(tmp_path)
    assert read(tmp_path / "results.json")["published"] == theirs
    assert (tmp_path / "results.csv").read_text().splitlines() == [
        "arm,fid,fid (paper),accuracy,num_samples",
        "dps,20.5,217.1,0.7,64",
        "tfg,11.0,,,64",
    ]
