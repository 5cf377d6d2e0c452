"""The order of the modules of `socksclient.protocol`: each imports only from those before it."""

from __future__ import annotations

import ast

import pytest
from import_graph import PACKAGE, modules, read_imports

PREFIX = "socksclient.protocol."
IMPORTS = read_imports()

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
    "steps",
    "place",
    "tunnel",
)
PROTOCOLS = {"socks5", "socks4", "http"}


def test_protocol_order_has_every_module() -> None:
    found = [name.removeprefix(PREFIX) for name in modules(PACKAGE) if name.startswith(PREFIX)]
    assert sorted(found) == sorted(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_protocol_order_allows_imports_of_earlier_modules_only(module: str) -> None:
    before = set(ORDER[: ORDER.index(module)])
    if module in PROTOCOLS:
        before -= PROTOCOLS
    assert IMPORTS[PREFIX + module] <= {PREFIX + name for name in before}


@pytest.mark.parametrize("module", ["handshake", "route", "tunnel"])
def test_protocol_order_binds_no_module_to_one_protocol(module: str) -> None:
    """A new kind of hop is one module more, and none of these changes."""
    assert not {PREFIX + name for name in PROTOCOLS} & IMPORTS[PREFIX + module]


def test_protocol_schemes_are_compared_only_in_their_own_module() -> None:
    """What depends on the protocol of a hop is in its `Kind`."""
    comparing = set()
    for module, path in modules(PACKAGE).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "proxy.scheme" in ast.unparse(node):
                comparing.add(module)
    # httpx has a transport for HTTP proxies of its own, to which `from_env` leaves them.
    assert comparing <= {"socksclient._httpx.transport"}
