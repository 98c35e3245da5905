"""The tour runs, shows what it says, and is committed as it was executed."""

from __future__ import annotations

import base64
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbformat import NotebookNode
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
SMALL = {"NUM_POINTS": 200, "NUM_EPOCHS": 3, "NUM_DIGITS": 10, "NUM_STEPS": 6}


def source_cells() -> list[NotebookNode]:
    return jupytext.read(DOCS / "tour.py", fmt="py:percent").cells


@pytest.fixture(scope="module")
def notebook() -> NotebookNode:
    return nbformat.read(DOCS / "tour.ipynb", as_version=4)


@pytest.fixture(scope="module")
def tour() -> Iterator[dict[str, Any]]:
    """The names that the cells leave behind, with few samples and little training."""
    names: dict[str, Any] = {"__name__": "tour"}
    logger, backend = logging.getLogger("lightning.pytorch"), plt.get_backend()
    level = logger.level
    plt.switch_backend("agg")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
        for cell in source_cells():
            if cell.cell_type != "code":
                continue
            exec(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE), names)
            if "parameters" in cell.metadata.get("tags", []):
                assert names.keys() >= SMALL.keys()
                names |= SMALL
    yield names
    plt.close("all")
    plt.switch_backend(backend)
    logger.setLevel(level)


def test_the_learned_field_points_where_the_exact_one_does(tour: dict[str, Any]) -> None:
    exact, learned = tour["fields"]
    assert exact.norm() > 1
    assert torch.cosine_similarity(exact, learned, dim=0) > 0.7


def test_tag_brings_drifted_points_back(tour: dict[str, Any]) -> None:
    w1 = {arm: figures["w1"] for arm, figures in tour["toy_results"].figures.items()}
    assert w1["drift"] > w1["unguided"] + 2
    assert w1["drift+tag"] < 0.8 * w1["drift"]
    assert w1["drift+tag 0.3"] < w1["drift+tag"]
    assert w1["drift+tag 5.0"] > 2 * w1["drift+tag 0.3"]
    gaps = {arm: figures["time_gap"] for arm, figures in tour["toy_results"].figures.items()}
    assert gaps["drift+tag"] < gaps["drift"] < gaps["drift+tag 5.0"]


def test_the_arms_of_the_digits_are_what_the_text_says(tour: dict[str, Any]) -> None:
    figures = tour["digit_results"].figures
    assert list(figures) == ["unguided", "dps", "strong dps", "strong dps+tag", "fixed length"]
    assert all(math.isfinite(value) for values in figures.values() for value in values.values())
    assert figures["strong dps+tag"]["time_gap"] < figures["strong dps"]["time_gap"]
    assert figures["fixed length"]["fid"] < figures["unguided"]["fid"] < figures["strong dps"]["fid"]


def test_the_notebook_is_its_source(notebook: NotebookNode) -> None:
    committed = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert committed == [(cell.cell_type, cell.source) for cell in source_cells()], "run `make tour`"


def test_the_notebook_was_executed_from_top_to_bottom(notebook: NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert ["drift+tag" in tables[0], "strong dps+tag" in tables[1]] == [True, True]


def test_the_pictures_show_something(notebook: NotebookNode) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 6
    for picture in pictures:
        colours = Image.open(io.BytesIO(base64.b64decode(picture))).getcolors()
        # More than a background and the lines of its axes.
        assert colours is not None
        assert len(colours) > 20


def test_the_notebook_says_nothing_of_the_machine_and_is_small(notebook: NotebookNode) -> None:
    path = DOCS / "tour.ipynb"
    assert path.stat().st_size < 600_000
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    texts = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
    assert re.findall(r"/(?:home|root|tmp|usr|work|Users)/|Warning", texts) == []
