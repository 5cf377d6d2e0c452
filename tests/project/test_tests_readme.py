"""`tests/README.md`: it names every folder of the tests, and no folder that is gone."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_tests_readme_names_every_folder() -> None:
    folders = {
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*")
        if path.is_dir() and any(path.glob("*.py"))
    }
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_/]+)/` \|", text, re.MULTILINE)) == folders


def test_tests_readme_names_fixtures_of_conftest() -> None:
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    conftest = (TESTS / "conftest.py").read_text(encoding="utf-8")
    fixtures = re.findall(r"^@pytest\.fixture.*\ndef (\w+)", conftest, re.MULTILINE)
    assert fixtures
    assert [name for name in fixtures if f"`{name}`" not in text] == []
