"""Read which file of the package imports which, and hold the rule for the folders.

Every import counts: one within a function, and one under `TYPE_CHECKING` too, because a reader
follows both.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

PACKAGE = Path(__file__).parents[2] / "socksclient"

DOORS = "doors"
"""Stands for the files at the top of the package, which anyone may import."""

MAY_IMPORT: Mapping[str, Collection[str]] = {
    "_cli": {DOORS, "_httpx", "_sync", "_anyio", "_net", "protocol", "testing"},
    DOORS: {"_httpx", "_sync", "_anyio", "_net", "protocol", "testing"},
    "_httpx": {"_sync", "_anyio", "_net", "protocol"},
    "_sync": {"_net", "protocol"},
    "_anyio": {"_net", "protocol"},
    "_net": {"protocol"},
    "protocol": set(),
    "testing": {"protocol"},
}
"""The folders that each folder may import from, beside itself: the rule of docs/architecture.md."""

Graph: TypeAlias = dict[str, set[str]]
"""Each module, and the modules that it imports; or the same of folders."""


def modules(package: Path) -> dict[str, Path]:
    """Return every module of the package by its dotted name, such as `socksclient._net.sockets`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def imported_names(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield for each imported name the modules that it may be or come from, the likeliest first."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.name,)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                # `from package import name` imports the module package.name where there is one.
                yield f"{node.module}.{alias.name}", node.module


def read_imports(package: Path = PACKAGE) -> Graph:
    """Return for each module of the package the other modules of the package that it imports."""
    files = modules(package)
    graph: Graph = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = {
            next((name for name in names if name in files), module)
            for names in imported_names(tree)
        } - {module}
    return graph


def folder_of(module: str, package: Path = PACKAGE) -> str:
    """Return the folder that a module stands in; `DOORS` for a file at the top of the package.

    `python -m` runs `__main__`, which nobody imports. It is the way into `_cli`, and belongs there.
    """
    _, *parts = module.split(".")
    if parts == ["__main__"]:
        return "_cli"
    if parts and (package / parts[0]).is_dir():
        return parts[0]
    return DOORS


def between_folders(graph: Graph, package: Path = PACKAGE) -> Graph:
    """Return for each folder the other folders that its modules import from."""
    folders: Graph = {}
    for module, imported in graph.items():
        folder = folder_of(module, package)
        folders.setdefault(folder, set())
        folders[folder] |= {folder_of(name, package) for name in imported} - {folder}
    return folders


def cycles(graph: Graph) -> list[set[str]]:
    """Return the groups of two or more that all reach each other by imports, in a circle."""
    reach = {start: _reachable(graph, start) for start in graph}
    groups: list[set[str]] = []
    for start in graph:
        group = {other for other in reach[start] if start in reach[other]}
        if len(group) > 1 and group not in groups:
            groups.append(group)
    return groups


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found
