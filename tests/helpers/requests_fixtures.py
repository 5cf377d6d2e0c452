"""Fixtures for the tests of `socksclient.requests`; a plugin of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from socksclient.requests import Session
from socksclient.testing import SocksServer

from helpers.origin import Origin
from helpers.requests_clients import WithOptions


@pytest.fixture(scope="module")
def certificates(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a file with the authority of the origin."""
    path = str(tmp_path_factory.mktemp("requests") / "ca.pem")
    origin.ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def requests_environment(certificates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the authority of the origin, and clear the proxies of the environment."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates)


@pytest.fixture
def session(server: SocksServer) -> Iterator[Session]:
    with Session(server.url) as session:
        yield session


@pytest.fixture
def pool_kwargs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(WithOptions, "pool_kwargs", {})
    return WithOptions.pool_kwargs
