"""What the tests that compare with curl share; a plugin of pytest."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme

from helpers.curl import NAMES, Proxies, Recorder, version
from helpers.support import family_of


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    path = str(tmp_path_factory.mktemp("unix") / "so cks")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with ExitStack() as stack:
        listeners = [
            socket.create_server((host, 0), family=family_of(host))
            for host in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "::1")
        ]
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(path)
        unix.listen()
        a, b, c, ipv6, at_path = (
            stack.enter_context(Recorder(listener)) for listener in (*listeners, unix)
        )
        tls = stack.enter_context(Recorder(socket.create_server(("127.0.0.1", 0)), context))
        yield Proxies(a, b, c, ipv6, at_path, tls, path, authority)


@pytest.fixture
def curl_names(names: dict[str, list[str]]) -> None:
    """Resolve the names of the destinations, and nothing else, in this process."""
    names.update(NAMES)
    names["localhost"] = ["127.0.0.1"]


@pytest.fixture(scope="module")
def newer() -> bool:
    """Return whether curl is newer than the curl that the tables of differences are about."""
    return version() > (7, 88, 1)
