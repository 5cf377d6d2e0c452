"""What is loaded when, and what is there under which name."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import pytest

import socksclient
import socksclient._cli.stdio
import socksclient._sync.connect
import socksclient.anyio
import socksclient.dnspython
import socksclient.exceptions
import socksclient.flows
import socksclient.ftp
import socksclient.httpx
import socksclient.protocol
import socksclient.protocol.environment
import socksclient.redis
import socksclient.requests
import socksclient.testing
import socksclient.urllib

MODULES: list[object] = [
    socksclient.anyio,
    socksclient.dnspython,
    socksclient.protocol.environment,
    socksclient.exceptions,
    socksclient.flows,
    socksclient.ftp,
    socksclient.httpx,
    socksclient.redis,
    socksclient.requests,
    socksclient._cli.stdio,
    socksclient._sync.connect,
    socksclient.protocol,
    socksclient.testing,
    socksclient.urllib,
]
# httpx2 has never existed for Python 3.10.
if sys.version_info >= (3, 11):
    import socksclient.httpx2

    MODULES.append(socksclient.httpx2)

HEAVY = (
    "httpx",
    "httpcore",
    "httpx2",
    "requests",
    "anyio",
    "ssl",
    "asyncio",
    "h11",
    "redis",
    "idna",
)


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter has loaded."""
    code = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import socksclient",
        "import socksclient; dir(socksclient)",
        "import socksclient; socksclient.Proxy, socksclient.SocksError, socksclient.Method",
        "import socksclient; socksclient.create_connection",
        "import socksclient; socksclient.udp_associate, socksclient.bind",
        "import socksclient.protocol as p; [getattr(p, name) for name in p.__all__]",
        "import socksclient; [socksclient.Proxy('h', scheme=s) for s in ('http', 'socks4')]",
        "import socksclient._cli.main, socksclient._cli.stdio, socksclient._sync.connect",
        "import socksclient.pytest_plugin",
    ],
)
def test_import_loads_no_module_that_it_does_not_need(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_import_of_a_transport_loads_httpx() -> None:
    assert loaded_after("import socksclient; socksclient.SocksTransport") >= {"httpx", "ssl"}


def test_import_of_pysocks_is_in_no_module() -> None:
    directory = Path(socksclient.__file__).parent
    asked = set()
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    asked |= set(alias.name.split("."))
            if isinstance(node, ast.ImportFrom):
                # Each part counts, as in urllib3.contrib.socks.
                asked |= set(str(node.module).split("."))
    assert {"requests", "socksclient", "socket", "adapters", "connectionpool"} <= asked
    assert not asked & {"socks", "sockshandler"}


@pytest.mark.parametrize("package", [socksclient, socksclient.protocol])
def test_public_names_exist(package: ModuleType) -> None:
    assert sorted(set(package.__all__)) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("package", [socksclient, socksclient.protocol])
def test_public_names_loaded_on_use_are_known_to_type_checkers(package: ModuleType) -> None:
    """Type checkers do not read the table of names, so the imports stand there once more."""
    seen = {}
    for node in ast.walk(ast.parse(Path(str(package.__file__)).read_text())):
        if isinstance(node, ast.ImportFrom):
            seen.update({alias.asname: node.module for alias in node.names if alias.asname})
    assert sorted(seen) == sorted(package.__all__)
    for name, module in seen.items():
        assert getattr(package, name) is getattr(import_module(str(module)), name)


def test_public_names_have_every_error() -> None:
    for name in socksclient.exceptions.__all__:
        found = getattr(socksclient.exceptions, name)
        if isinstance(found, type) and issubclass(found, socksclient.SocksError):
            assert getattr(socksclient, name) is found
            assert name in socksclient.__all__


def test_public_names_exclude_any_other() -> None:
    with pytest.raises(AttributeError, match="module 'socksclient' has no attribute 'nothing'"):
        socksclient.nothing  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_public_names_of_modules_exist(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert hasattr(module, name)


def test_package_is_typed_and_has_its_entry_points() -> None:
    distribution = metadata.distribution("socksclient")
    names = {(point.group, point.name) for point in distribution.entry_points}
    assert {("console_scripts", "socksclient"), ("pytest11", "socksclient")} <= names


def test_pytest_run_of_one_file_ends_well() -> None:
    """At the end, Hypothesis is imported, and looks at what the garbage collector knows."""
    test = f"{__file__}::{test_public_names_exclude_any_other.__name__}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "1 passed" in run.stdout
