"""Fail a comment behind code that has more than five words.

    python tests/project/check_comments.py FILE_OR_FOLDER...

A comment that shares its line with code has room for a unit or a value. A reason needs whole
sentences, and stands above the code. Directives for tools (``noqa: A002``, ``type: ignore[misc]``)
are not counted; the words that explain one (``noqa: A002 - its name there``) are.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

MOST_WORDS = 5

DIRECTIVE = re.compile(
    r"""
    \#*\s*                                        # Several directives may share a comment.
    (?: (?:ruff:\s*|flake8:\s*)? noqa (?: : \s* [A-Z]+\d+ (?: [,\s]+ [A-Z]+\d+ )* )?
      | type:\s*ignore (?: \[ [^\]]* \] )?
      | (?: pragma | fmt | isort | mypy | codespell ) : \s* [\w-]+
    )
    (?! \w )
    """,
    re.VERBOSE,
)
WORD = re.compile(r"\S*\w\S*")


def words(comment: str) -> int:
    """Count the words of a comment, without directives for tools."""
    return len(WORD.findall(DIRECTIVE.sub(" ", comment)))


def comments_behind_code(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of each comment that shares its line with code."""
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT and lines[row - 1][:column].strip():
            yield row, token.string


def python_files(paths: Iterable[str]) -> Iterator[Path]:
    """Yield each file that is named, and each Python file below each folder that is named."""
    for path in map(Path, paths):
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main(paths: Sequence[str]) -> int:
    """Print every comment that is too long for its place; return 1 if there is one, else 0."""
    status = 0
    for path in python_files(paths):
        for row, comment in comments_behind_code(path.read_text(encoding="utf-8")):
            if (count := words(comment)) > MOST_WORDS:
                print(
                    f"{path.as_posix()}:{row}: {count} words behind code, {MOST_WORDS} at most;"
                    f" say it above the code: {comment}"
                )
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
