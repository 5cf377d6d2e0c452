"""The layout of the package: which folder may import which, and the picture of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import (
    MAY_IMPORT,
    PACKAGE,
    between_folders,
    cycles,
    modules,
    read_imports,
)

DOCS = PACKAGE.parent / "docs"


def draw_layout(*arguments: str | Path) -> int:
    command = [sys.executable, DOCS / "draw_layout.py", *arguments]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_a_folder_imports_only_from_the_folders_below_it(folder: str) -> None:
    assert between_folders(read_imports())[folder] <= set(MAY_IMPORT[folder])


def test_there_is_no_cycle_of_imports() -> None:
    assert cycles(read_imports()) == []


def test_the_rule_has_no_cycle() -> None:
    assert cycles({folder: set(names) for folder, names in MAY_IMPORT.items()}) == []


def test_the_picture_is_current() -> None:
    assert draw_layout("--check") == 0


def test_a_picture_that_is_not_current_is_noticed(tmp_path: Path) -> None:
    picture = tmp_path / "layout.svg"
    assert draw_layout("--check", picture) == 1
    assert draw_layout(picture) == 0
    assert draw_layout("--check", picture) == 0
    picture.write_text(picture.read_text().replace("driver.py", "drivers.py"))
    assert draw_layout("--check", picture) == 1


def test_architecture_names_every_file() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for path in modules(PACKAGE).values():
        if path.name != "__init__.py":
            assert f"{path.name}`" in text, path
