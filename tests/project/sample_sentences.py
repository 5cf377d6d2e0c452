"""Draw sentences at random from the docstrings and the comments of the package.

    python tests/project/sample_sentences.py [--seed SEED] [--count COUNT] [ROOT_OF_A_CHECKOUT]

Somebody who did not write the sentences reads them, and counts those that need rewriting. The
comments are those on lines of their own. The same seed draws the same sentences from the same text.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import random
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from check_comments import DIRECTIVE, words

FEWEST_WORDS = 3
"""What has fewer words is a name or a unit, and no sentence."""

SECTION = re.compile(
    r"(Args|Attributes|Examples?|Notes?|Raises|Returns|Warnings?|Warns|Yields):$", re.MULTILINE
)
ITEM = re.compile(r"(?:[-*]|\d+\.) +")
"""The beginning of an item of a list."""

ENTRY = re.compile(r"[*\w.]+(?:, [*\w.]+)*: ")
"""The beginning of an entry in a section of a docstring, such as `timeout: ` or `ValueError: `."""

END = re.compile(r"""[.?!]["')\]`]* +(?=["'(\[`*]*[A-Z0-9])|[.?!]["')\]`]* +(?=`)""")
"""The end of a sentence, with the space before the next one."""

ABBREVIATION = re.compile(r"\b(e\.g|i\.e|cf|vs|etc|no)\.$", re.IGNORECASE)


class Sentence(NamedTuple):
    """A sentence, and the place of the docstring or comment that it is taken from."""

    path: Path
    line: int
    text: str


def paragraphs(text: str) -> Iterator[str]:
    """Yield each paragraph, item of a list and entry of a section, each on one line.

    Text that is indented outside of a section is an example of code or a drawing, and is left out.
    """
    paragraph: list[str] = []
    in_section = False
    for line in text.split("\n"):
        content = line.strip()
        indented = line.startswith(" ")
        is_item = ITEM.match(content) is not None
        if SECTION.match(line):
            in_section = True
        elif content and not indented:
            in_section = False
        begins = is_item or (in_section and ENTRY.match(content) is not None)
        if not content or SECTION.match(line) or begins:
            if paragraph:
                yield " ".join(paragraph)
            paragraph = []
        if not content or SECTION.match(line):
            continue
        if in_section or paragraph or begins or not indented:
            paragraph.append(ITEM.sub("", content, count=1) if is_item else content)
    if paragraph:
        yield " ".join(paragraph)


def sentences(paragraph: str) -> Iterator[str]:
    """Yield each sentence of a paragraph."""
    start = 0
    for end in END.finditer(paragraph):
        sentence = paragraph[start : end.end()].strip()
        if not ABBREVIATION.search(sentence):
            yield sentence
            start = end.end()
    yield paragraph[start:].strip()


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring, and of each run of whole-line comments."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, inspect.cleandoc(text)
    comment: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            if not comment:
                first = token.start[0]
            if not DIRECTIVE.match(token.string):
                comment.append(token.string.lstrip("#").removeprefix(" "))
        elif token.type != tokenize.NL or not token.line.strip():
            if comment:
                yield first, "\n".join(comment)
            comment = []


def all_sentences(package: Path) -> list[Sentence]:
    """Return every sentence of the package, in the order of the files and lines."""
    return [
        Sentence(path, line, sentence)
        for path in sorted(package.rglob("*.py"))
        for line, text in sorted(texts(path.read_text(encoding="utf-8")))
        for paragraph in paragraphs(text)
        for sentence in sentences(paragraph)
        if words(sentence) >= FEWEST_WORDS
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sentences that were drawn, each with a number and its place."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--seed", default="0")
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args(arguments)
    everything = all_sentences(options.root / "socksclient")
    drawn = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    print(f"{len(drawn)} of {len(everything)} sentences, seed {options.seed!r}\n")
    for number, sentence in enumerate(drawn, 1):
        place = f"{sentence.path.relative_to(options.root).as_posix()}:{sentence.line}"
        print(
            textwrap.fill(
                sentence.text, 96, initial_indent=f"{number:2}. ", subsequent_indent="    "
            )
        )
        print(f"    ({place})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
