"""The pages of the documentation are true: their links lead somewhere, and their examples run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.snippets import ROOT

PAGES = [
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "README.md",
    *sorted(ROOT.glob(".github/*.md")),
    ROOT / "tests" / "README.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
class TestLinks:
    def test_every_link_leads_to_a_file_and_a_heading(self, page: Path) -> None:
        for _, target in links(page):
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            if anchor:
                assert anchor in anchors(file), target

    def test_a_link_to_code_leads_to_the_file_that_defines_it(self, page: Path) -> None:
        for text, target in links(page):
            if target.endswith(".py") and (name := re.fullmatch(r"`([\w.]+)`", text)):
                defined = definitions((page.parent / target).read_text(encoding="utf-8"))
                assert name[1] in defined or name[1] == Path(target).name, (text, target)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the text and the target of every link to a file of the project."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"\[([^][]*)\]\(([^()\s]+)\)", text):
        if not re.match(r"[a-z]+:", found[2]):
            yield found[1].replace("\n", " "), found[2]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def definitions(source: str) -> set[str]:
    """Return the names that a file defines: functions, classes, their methods, and values."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{member.name}"
                for member in node.body
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        found |= {
            target.id
            for target in (getattr(node, "targets", None) or [getattr(node, "target", None)])
            if isinstance(target, ast.Name)
        }
    return found
