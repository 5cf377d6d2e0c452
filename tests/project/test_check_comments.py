"""The script that fails long comments behind code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("check_comments.py")

GOOD = '''\
"""A file whose comments are all right."""  # five words at the most
# A comment on a line of its own may have as many words as its reason needs.
LIMIT = 5  # seconds
NAMES = [
    # Within brackets, a line of its own is still a line of its own, however long the comment is.
    "a # in a string, with many, many, many words behind it",
    """and # in a string
of two lines with many, many words behind it""",  # a b - c d . e
]
print(LIMIT)  # noqa: T201
print(LIMIT)  # noqa: T201, A001 - five words are well allowed
print(LIMIT)  # type: ignore[misc, arg-type]  # noqa: T201  # as many words as five
print(LIMIT)  # pragma: no-cover
'''

BAD = '''\
LIMIT = 5  # this is one word too many
"""A string
of two lines."""; TWO = 2  # and this is one word too many
print(LIMIT)  # noqa: T201 - six words are one too many
print(LIMIT)  # type: ignore[misc]  # noqa  # six words are one too many
print(LIMIT)  # fmt: skip for six words after the name
'''


def check(*paths: Path) -> tuple[int, list[str]]:
    """Run the script; return its exit status, and `file:line` of each complaint."""
    command = [sys.executable, str(SCRIPT), *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    return run.returncode, [
        line.split(": ")[0].removeprefix(paths[0].as_posix()) for line in run.stdout.splitlines()
    ]


def test_check_comments_passes_short_comments_and_directives(tmp_path: Path) -> None:
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    assert check(path) == (0, [])


def test_check_comments_reports_each_long_comment_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    assert check(path) == (1, [":1", ":3", ":4", ":5", ":6"])


def test_check_comments_searches_folders_in_folders(tmp_path: Path) -> None:
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    (inner / "bad.py").write_text("LIMIT = 5  # this is one word too many\n")
    (inner / "bad.txt").write_text("LIMIT = 5  # this is one word too many\n")
    assert check(tmp_path) == (1, ["/one/two/bad.py:1"])
