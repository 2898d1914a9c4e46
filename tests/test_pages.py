"""The pages tell of files, rooms and pages that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HOUSE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def missing(text: str, folder: Path) -> list[str]:
    """The local targets of a text's links that do not exist."""
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    return [t for t in targets if "://" not in t and not (folder / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8"), page.parent) == []


def test_a_link_that_leads_nowhere_is_seen() -> None:
    assert missing("[a](docs/mathematics.md), [b](docs/nowhere.md)", ROOT) == ["docs/nowhere.md"]


def test_the_house_has_the_rooms_of_the_page_in_the_order_of_imports() -> None:
    layers = (ROOT / ".importlinter").read_text(encoding="utf-8")
    layers = layers.partition("layers =")[2].partition("\n\n")[0].split()
    rooms = re.findall(r"^\| `(\w+)` \|", HOUSE, flags=re.MULTILINE)
    assert rooms == layers
    entries = {path.stem for path in (ROOT / "sdeverify").iterdir() if path.suffix in {"", ".py"}}
    assert {name for name in entries if not name.startswith("_")} == set(rooms)


def test_the_files_that_the_house_sends_a_reader_to_exist() -> None:
    files = re.findall(r"`((?:\w+/)+\w+\.py)`", HOUSE)
    assert len(files) > 10
    assert [f for f in files if not (ROOT / "sdeverify" / f).exists()] == []


def test_every_page_is_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[2:] if f"](docs/{page.name})" not in readme] == []
