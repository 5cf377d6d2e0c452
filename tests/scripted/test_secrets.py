"""No password in any text: not of values, log lines, errors or tracebacks with local variables."""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import traceback
from collections.abc import Callable

import httpx
import pytest

from socksclient import Proxy, ProxyClosed, SocksError, SocksTransport
from socksclient.testing import Faults, SocksServer

from helpers.support import LONG, SHORT, Address, Dial, serving

USERNAME, PASSWORD = "token-as-user-8c1f", "hunter2-p%40ss"
DECODED = "hunter2-p@ss"


def assert_no_secret_in(text: str) -> None:
    assert text
    for secret in (USERNAME, PASSWORD, DECODED, "hunter2"):
        assert secret not in text


def proxy_of(server: SocksServer) -> Proxy:
    return Proxy(*server.address, username=USERNAME, password=DECODED)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(status=0x01),
        Faults(answers={"authentication": b"\x07\x00"}),
        Faults(method=0xFF),
        Faults(method=0x01),
    ],
    ids=str,
)
def test_secrets_in_socks5_errors(
    dial: Dial, echo_server: Address, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with SocksServer(accounts={USERNAME: DECODED}, faults=faults) as server:
        with pytest.raises(SocksError) as caught:
            dial(echo_server, proxy=proxy_of(server))
    error = caught.value
    # As error reporters do: with the local variables of every frame of the library.
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "\n".join([str(error), repr(error), *report.format()])
    assert re.search("in (tunnel|_carry_out)", text)
    assert_no_secret_in(text)
    assert_no_secret_in(caplog.text)


@pytest.mark.parametrize("stalls", [True, False])
@pytest.mark.parametrize(
    ("scheme", "before"),
    [("http", b"HTTP/1.1 200 "), ("socks5h", b"\x05\x02\x01\x00\x05\x00\x00\x03\x20")],
)
def test_secrets_in_unfinished_reply(dial: Dial, scheme: str, before: bytes, stalls: bool) -> None:
    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before + DECODED.encode())
        if not stalls:
            writer.write_eof()
        await reader.read()

    with serving(repeat) as address:
        proxy = Proxy(*address, scheme=scheme, username=USERNAME, password=DECODED)
        with pytest.raises((TimeoutError, ProxyClosed)) as caught:
            dial(("origin.test", 80), proxy=proxy, timeout=SHORT if stalls else LONG)
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    # The frames of this test hold the proxy.
    texts = [text for text in report.format() if __file__ not in text]
    assert "socksclient" in "".join(texts)
    assert_no_secret_in("".join(texts))


def test_secrets_in_httpx_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with SocksServer(accounts={USERNAME: DECODED}, faults=Faults(reply=0x05)) as server:
        client = httpx.Client(transport=SocksTransport(proxy_of(server)))
        with client, pytest.raises(httpx.ProxyError) as caught:
            client.get("http://origin.test/")
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert_no_secret_in("\n".join([*report.format(), caplog.text]))


def test_secrets_in_repr() -> None:
    for proxy in (
        Proxy("proxy.example", username=USERNAME, password=DECODED),
        Proxy.from_url(f"socks5h://{USERNAME}:{PASSWORD}@proxy.example"),
    ):
        assert_no_secret_in(f"{proxy} {proxy!r} {[proxy]} {SocksTransport(proxy)!r}")
        assert str(proxy) == "socks5h://***@proxy.example:1080"


def test_secrets_in_headers() -> None:
    headers = {"Proxy-Authorization": f"Bearer {DECODED}", "X-Token": USERNAME}
    proxy = Proxy("proxy.example", scheme="https", headers=headers)
    assert_no_secret_in(f"{proxy} {proxy!r} {[proxy]} {SocksTransport(proxy)!r}")
    assert str(proxy) == "https://proxy.example:443"
    assert pickle.loads(pickle.dumps(proxy)).headers == tuple(headers.items())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Proxy.from_url(f"socks5h://{USERNAME}:{PASSWORD}@h:x"),
        lambda: Proxy.from_url(f"socks5h://{USERNAME}:{PASSWORD}@h/path"),
        lambda: Proxy.from_url(f"'http://{USERNAME}:{PASSWORD}@h'"),
        lambda: Proxy.from_url(f"socks5h://{USERNAME}\uff20h:1080"),
        lambda: Proxy("h", scheme="http", headers={"X": f"{DECODED}\n"}),
        lambda: Proxy("h", scheme="http", headers={f"X: {DECODED}": ""}),
        lambda: Proxy("h", scheme=f"http://{USERNAME}:{PASSWORD}@h"),
        lambda: Proxy("h", scheme="socks4", username=USERNAME, password=DECODED),
    ],
)
def test_secrets_in_value_errors(make: Callable[[], Proxy]) -> None:
    with pytest.raises(ValueError, match="proxy") as caught:
        make()
    assert_no_secret_in("".join(traceback.format_exception(caught.value)))
