"""The scripts that measure the package and draw sentences from it, on a package of three files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

FILES = {
    "__init__.py": """\
from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from socksclient._net.low import low

__all__ = ["low", "two", "three"]
""",
    "_net/__init__.py": "",
    "_net/low.py": '''\
"""Do little. Do it well, e.g. in one line.

An example of code is no sentence:

    low()

Args:
    nothing: The function takes no argument. The caller
        gives none.
"""

from typing import overload


@overload
def low() -> None: ...
@overload
def low(_: int) -> None: ...


def low(_: int = 0) -> None:
    """Import too late.

    - This is an item
      of a list.
    """
    # The first reason stands
    # on two lines. The second does not.
    from socksclient import three  # and this is behind code

    print(  # noqa: T201
        three,
    )
''',
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "socksclient" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(script: str, *arguments: str | Path) -> list[str]:
    command = [sys.executable, HERE / script, *arguments]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()


def test_measure_of_a_small_package(checkout: Path) -> None:
    rows = [line.strip("| ").split(" | ") for line in run("measure.py", checkout)[2:]]
    assert dict(rows) == {
        "files": "3",
        "folders": "2",
        "imports between files": "2",
        "floors of files": "2",
        "cycles of files": "1",
        "files in the largest cycle": "2",
        "upward imports of files": "1",
        "floors of folders": "2",
        "cycles of folders": "1",
        "upward imports of folders": "1",
        "code lines": "11",
        "docstring lines per code line": "1.36",
        "functions": "1",
        "code lines per function: median, p90, longest": "5, 5, 5",
        "whole-line comments": "2",
        "whole-line comments per code line": "0.182",
        "trailing comments": "1",
        "trailing among all comments": "33%",
        "public names in socksclient": "3",
    }


def test_measure_of_this_project() -> None:
    root = HERE.parents[1]
    rows = dict(line.strip("| ").split(" | ") for line in run("measure.py", root)[2:])
    files = list((root / "socksclient").rglob("*.py"))
    assert rows["files"] == str(len(files))
    assert rows["folders"] == str(len({path.parent for path in files}))
    names = ("cycles of files", "cycles of folders", "upward imports of folders")
    assert [rows[name] for name in names] == ["0", "0", "0"]


def test_sample_sentences_of_a_small_package(checkout: Path) -> None:
    lines = run("sample_sentences.py", "--count", "100", checkout)
    assert lines[0] == "8 of 8 sentences, seed '0'"
    drawn = {line.split(". ", 1)[1] for line in lines[2::2]}
    assert drawn == {
        "Do it well, e.g. in one line.",
        "An example of code is no sentence:",
        "nothing: The function takes no argument.",
        "The caller gives none.",
        "Import too late.",
        "This is an item of a list.",
        "The first reason stands on two lines.",
        "The second does not.",
    }
    assert {line.strip() for line in lines[3::2]} == {
        "(socksclient/_net/low.py:1)",
        "(socksclient/_net/low.py:22)",
        "(socksclient/_net/low.py:27)",
    }


def test_sample_sentences_of_one_seed_are_the_same(checkout: Path) -> None:
    first, again, other = (
        run("sample_sentences.py", "--count", "4", "--seed", seed, checkout)
        for seed in ("one", "one", "two")
    )
    assert first[2:] == again[2:] != other[2:]
