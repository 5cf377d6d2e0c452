"""The order of the modules of `socksclient.protocol`: each imports only from those before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import socksclient.protocol

FOLDER = Path(socksclient.protocol.__file__).parent
PACKAGE = "socksclient.protocol"

ORDER = (
    "lazy",
    # Values that know no proxy.
    "address",
    "codes",
    "flow",
    # What a proxy is, and where its URL comes from.
    "url",
    "fields",
    "environment",
    "schema",
    "proxy",
    "exceptions",
    # The protocols do not know each other.
    "socks5",
    "socks4",
    "http",
    # What is the same for all of them.
    "handshake",
    "route",
    "tunnel",
)
PROTOCOLS = {"socks5", "socks4", "http"}


def imported_by(module: str) -> Iterator[str]:
    """Yield what a module imports of ours, in functions and for type checkers too."""
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("socksclient"))
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("socksclient"):
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def test_every_module_has_its_place() -> None:
    found = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert found == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_before_it(module: str) -> None:
    before = set(ORDER[: ORDER.index(module)])
    if module in PROTOCOLS:
        before -= PROTOCOLS
    assert set(imported_by(module)) <= {f"{PACKAGE}.{name}" for name in before}


@pytest.mark.parametrize("module", ["handshake", "route", "tunnel"])
def test_no_module_is_bound_to_one_protocol(module: str) -> None:
    """A new kind of hop is one module more, and none of these changes."""
    assert not {f"{PACKAGE}.{name}" for name in PROTOCOLS} & set(imported_by(module))


def test_no_scheme_is_compared_outside_of_its_own_module() -> None:
    """What depends on the protocol of a hop is in its `Kind`."""
    package = Path(socksclient.__file__).parent
    comparing = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "proxy.scheme" in ast.unparse(node):
                comparing.add(path.relative_to(package).as_posix())
    # httpx has a transport for HTTP proxies of its own, which from_env leaves them to.
    assert comparing <= {"_httpx/transport.py"}
