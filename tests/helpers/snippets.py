"""The examples of the documentation, as they stand in its pages.

A comment above an example says what a test has to know about it, and no reader sees the comment:

    <!-- name: socket; requests: 1 -->
    ```python
    ...
    ```
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from helpers.support import LONG

ROOT = Path(__file__).parents[2]
"""The folder of the project."""

_SNIPPET = re.compile(
    r"(?:^<!-- (?P<notes>.*?) -->\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Snippet(NamedTuple):
    """An example.

    Attributes:
        code: Its text.
        line: The number of its first line in the page.
        notes: What the comment above it says: for each key, the value.
    """

    code: str
    line: int
    notes: Mapping[str, str]


def snippets(page: str) -> list[Snippet]:
    """Return the Python examples of a page, which is named by its path within the project."""
    text = ROOT.joinpath(page).read_text(encoding="utf-8")
    return [
        Snippet(
            found["code"],
            text[: found.start("code")].count("\n") + 1,
            dict(note.split(": ", 1) for note in (found["notes"] or "").split("; ") if note),
        )
        for found in _SNIPPET.finditer(text)
    ]


def named_snippets(page: str) -> dict[str, str]:
    """Return the code of the examples of a page that have names, by these names."""
    return {found.notes["name"]: found.code for found in snippets(page) if "name" in found.notes}


def run(
    code: str, env: Mapping[str, str] | None = None, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an example in a process of its own, in which every warning is an error.

    Args:
        code: The example.
        env: The environment of the process; by default it is empty.
        directory: The working directory, whose modules the example can import.
    """
    return _run(["-c", code], env, directory)


def run_pytest(
    file: str, env: Mapping[str, str], directory: Path
) -> subprocess.CompletedProcess[str]:
    """Run the tests in a file of a directory, in a process of its own."""
    return _run(["-m", "pytest", "-q", "-p", "no:cacheprovider", file], env, directory)


def _run(
    arguments: Sequence[str], env: Mapping[str, str] | None, directory: Path | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        env=dict(env or {}),
        cwd=directory,
        timeout=2 * LONG,
        check=False,
    )
