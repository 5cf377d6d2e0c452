"""The commands that contributors call, and that pre-commit and CI call for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile that run a program of .venv."""
    makefile = (ROOT / "Makefile").read_text()
    lines = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[0]
    return re.findall(r"^\t\$\(BIN\)/(.*)$", lines, re.MULTILINE)


@pytest.mark.parametrize("command", recipe("check"))
def test_pre_commit_runs_every_command_of_make_check(command: str) -> None:
    hooks = re.findall(
        r"entry: \.venv/bin/(.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE
    )
    # The hooks are given the files, and ruff's formats them.
    program = command.removesuffix(" --check").removesuffix(" socksclient tests benchmarks docs")
    assert program in {hook.removesuffix(" --force-exclude") for hook in hooks}
