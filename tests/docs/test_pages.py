"""The pages agree with the repository: links lead somewhere, imports point where the architecture says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "tag_lightning/pretrained/README.md", *ROOT.glob("docs/*.md")]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def drawn_arrows() -> dict[str, set[str]]:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    arrows = re.findall(r"^(\w+) +-> (.*)$", page, re.MULTILINE)
    return {room: set(imported.split(", ")) for room, imported in arrows}


def imports(room: str) -> set[str]:
    """The rooms that the files of a room import."""
    (place,) = (path for path in (ROOT / "tag_lightning" / room, ROOT / room, ROOT / f"tag_lightning/{room}.py")
                if path.exists() and not path.is_symlink())  # fmt: skip
    files = [place] if place.is_file() else place.glob("*.py")
    names = [
        name
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    ]
    rooms = {name.split(".")[1] for name in names if name.startswith("tag_lightning.")}
    return {name for name in rooms if name in drawn_arrows() or name in ("diffusion", "chemistry")} - {room}


@pytest.mark.parametrize("room", [*drawn_arrows(), "diffusion", "chemistry"])
def test_imports_point_where_the_architecture_says(room: str) -> None:
    assert imports(room) == drawn_arrows().get(room, set())
