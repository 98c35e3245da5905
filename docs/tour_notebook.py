"""Executes docs/tour.py and writes it with its outputs as docs/tour.ipynb: ``make tour``."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from tag_lightning.files import replacing

SOURCE = Path(__file__).with_name("tour.py")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
NUM_COLOURS = 128
# tqdm misses ipywidgets, which the page does not need; the others are between the libraries, as for pytest.
IGNORED_WARNINGS = ("ignore:IProgress not found", "ignore::DeprecationWarning", "ignore::FutureWarning")


def executed(source: Path) -> NotebookNode:
    """The notebook of a source in jupytext's percent format, executed; the same source gives the same notebook.

    Raises:
        RuntimeError: If a cell wrote warnings or progress to stderr.
        nbclient.exceptions.CellExecutionError: If a cell failed.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    os.environ["OMP_NUM_THREADS"] = "1"  # more threads would sum in another order
    os.environ["PYTHONWARNINGS"] = ",".join(IGNORED_WARNINGS)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, record_timing=False, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    warned = [output.text.strip() for output in outputs if output.get("name") == "stderr"]
    if warned:
        raise RuntimeError(f"{source.name} wrote to stderr, which does not belong on the page: {' '.join(warned)}")
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel added its version
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _small(output.data["image/png"])
    return notebook


def _small(png: str) -> str:
    """A base64 PNG with a palette in place of true colour, without the metadata of the library that drew it."""
    pixels = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    stream = io.BytesIO()
    pixels.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def main() -> None:
    """Write the notebook beside its source."""
    notebook = executed(SOURCE)
    nbformat.validate(notebook)
    with replacing(SOURCE.with_suffix(".ipynb")) as temporary:
        nbformat.write(notebook, temporary)


if __name__ == "__main__":
    main()
