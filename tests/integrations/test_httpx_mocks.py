"""Tools that replace methods of httpx's transports work with their subclasses here as well."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import respx
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_httpx import HTTPXMock

from socksclient.testing import SocksServer

from helpers.http_clients import HTTP, Client, Driver

pytest_plugins = ["helpers.http_fixtures"]

httpx_only = pytest.mark.parametrize("pair", ["httpx"], indirect=True)


@pytest.fixture(params=["a transport", "from_env", "from_env without a proxy"])
def client(
    request: pytest.FixtureRequest,
    driver: Driver,
    server: SocksServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Client:
    """Return a client with each kind of transport that socksclient makes."""
    if request.param == "a transport":
        return driver.through(server.url)
    monkeypatch.setenv("all_proxy", server.url)
    monkeypatch.setenv("no_proxy", "*" if request.param == "from_env without a proxy" else "")
    return driver.client(driver.transport_class.from_env())


@httpx_only
def test_pytest_httpx_mocks_transport(
    client: Client, server: SocksServer, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(text="mocked")
    with client:
        assert client.get(HTTP).text == "mocked"
    assert server.connections == []


@httpx_only
@pytest.mark.parametrize("using", ["httpcore", "httpx"])
def test_respx_mocks_transport(client: Client, server: SocksServer, using: str) -> None:
    with respx.mock(using=using) as router, client:
        router.get(HTTP).respond(text="mocked")
        assert client.get(HTTP).text == "mocked"
    assert server.connections == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="vcrpy needs Python 3.11")
def test_vcrpy_records_and_plays_transport(
    driver: Driver, server: SocksServer, tmp_path: Path
) -> None:
    import vcr  # type: ignore[import-untyped,unused-ignore]

    bodies = []
    for _ in ("recorded", "played"):
        with (
            vcr.use_cassette(str(tmp_path / "cassette.yaml")),
            driver.through(server.url) as client,
        ):
            bodies.append(client.get(HTTP).content)
    assert bodies[0] == bodies[1]
    assert len(server.requests) == 1


def test_opentelemetry_instruments_transport(client: Client, driver: Driver) -> None:
    instrumentors: dict[str, Callable[[], Any]] = {
        "httpx": HTTPXClientInstrumentor,
        "httpx2": HTTPX2ClientInstrumentor,
    }
    instrumentor = instrumentors[driver.httpx.__name__]()
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor.instrument(tracer_provider=provider)
    try:
        with client:
            with client.stream(f"http://127.0.0.1:{driver.origin.http_port}/") as response:
                assert response.status_code == 200
    finally:
        instrumentor.uninstrument()
    assert len(spans.get_finished_spans()) == 1


def test_transport_is_subclass_of_transport_in_httpx(driver: Driver) -> None:
    kind = "HTTPTransport" if driver.blocking else "AsyncHTTPTransport"
    assert isinstance(driver.transport("socks5h://127.0.0.1"), getattr(driver.httpx, kind))


def test_transport_replaces_pool_of_httpx_or_is_not_made(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_pool` is the one private name of httpx that the transports use."""
    base = driver.httpx.HTTPTransport if driver.blocking else driver.httpx.AsyncHTTPTransport
    pool = driver.transport("socks5h://127.0.0.1")._pool
    assert type(pool) is type(base()._pool)
    monkeypatch.setattr(base, "__init__", lambda _self, verify: None)
    with pytest.raises(AttributeError, match="_pool"):
        driver.transport("socks5h://127.0.0.1")
