"""The pages agree with the repository: links lead somewhere, imports point where the architecture says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CHANGELOG.md", "tag_lightning/pretrained/README.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
FOUNDATIONS = ("diffusion", "chemistry")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{name} links to {target}"


def drawn_arrows() -> dict[str, set[str]]:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    arrows = re.findall(r"^(\w+) +-> (.*)$", page, re.MULTILINE)
    return {room: set(imported.split(", ")) for room, imported in arrows}


def imports(room: str) -> set[str]:
    """The rooms that the files of a room import."""
    top = room in ("callbacks", "datamodules")
    place = ROOT / room if top else ROOT / "tag_lightning" / room
    files = place.glob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    names: list[str] = []
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    rooms = {name.split(".")[1] for name in names if name.startswith("tag_lightning.")}
    return {name for name in rooms if name in (*drawn_arrows(), *FOUNDATIONS)} - {room}


@pytest.mark.parametrize("room", [*drawn_arrows(), *FOUNDATIONS])
def test_imports_point_where_the_architecture_says(room: str) -> None:
    assert imports(room) == drawn_arrows().get(room, set())
