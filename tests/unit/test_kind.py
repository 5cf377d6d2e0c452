"""A new kind of hop is one new module, and one line for each of its schemes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from socksclient import Proxy, SocksError
from socksclient.protocol import Command, ConnectionEnded, start
from socksclient.protocol.address import Host
from socksclient.protocol.proxy import as_chain
from socksclient.protocol.url import SCHEMES, Scheme

MODULE = '''
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import ProtocolError, ProxyClosed
from socksclient.protocol.flow import ConnectionEnded, Exchange
from socksclient.protocol.proxy import Kind


class Plain(Kind):
    """A proxy that is told where to go in a line of text, and says "ok"."""

    scheme = "plain"
    tls_scheme = "plains"
    title = "a plain proxy"
    remote_dns = True
    default_ports = (4000, 4443)
    has_password = False
    has_path = False
    commands = frozenset((Command.CONNECT,))

    def check_proxy(self, proxy):
        if proxy.username is not None and len(proxy.username) > 8:
            raise ValueError("proxy username has more than 8 characters")

    def handshake(self, proxy, command, host, port, begin_phase):
        begin_phase("request")
        try:
            answer = yield Exchange(f"{proxy.username}: {host} {port}\\n".encode(), 2)
        except ConnectionEnded as ended:
            raise ProxyClosed.within(ended, 2) from ended.__cause__
        if answer != b"ok":
            raise ProtocolError("not ok", answer)
        return "0.0.0.0", 0
'''


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a kind of hop that the library does not have."""
    (tmp_path / "plain_kind_of_hop.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SCHEMES, "plain", Scheme("plain_kind_of_hop", "Plain"))
    monkeypatch.setitem(SCHEMES, "plains", Scheme("plain_kind_of_hop", "Plain", has_tls=True))
    yield
    importlib.invalidate_caches()


@pytest.mark.usefixtures("plain")
class TestANewKind:
    def test_new_kind_has_urls(self) -> None:
        proxy = Proxy.from_url("plain://user@h")
        assert proxy == Proxy("h", 4000, scheme="plain", username="user")
        assert str(proxy) == "plain://***@h:4000"
        assert str(Proxy.from_url("PLAINS://[::1]")) == "plains://[::1]:4443"
        assert str(Proxy("h", scheme="plain", tls=True)) == "plains://h:4443"
        assert proxy.remote_dns

    def test_new_kind_speaks_its_own_protocol(self) -> None:
        flow = start("plain://user@h", "bücher.example", 80)
        assert next(flow).send == b"user: xn--bcher-kva.example 80\n"
        with pytest.raises(StopIteration) as ended:
            flow.send(b"ok")
        assert ended.value.value == ("0.0.0.0", 0)
        flow = start("plain://user@h", "h", 80)
        next(flow)
        with pytest.raises(SocksError, match="not ok"):
            flow.send(b"no")
        flow = start("plain://user@h", "h", 80)
        next(flow)
        with pytest.raises(
            SocksError, match="hung up before the end of its message: got 1 of 2 octets"
        ):
            flow.throw(ConnectionEnded(b"o"))

    def test_new_kind_can_be_a_hop_of_a_chain(self) -> None:
        near, far = as_chain(["plain://near", "socks5h://far"])
        near.kind.check_request(near, Command.CONNECT, Host.parse(far.host))

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("plain://user-name-@h", "proxy username has more than 8 characters"),
            ("plain://localhost/path", "proxy URL has a path, which only a SOCKS proxy"),
            ("plain:h", "proxy URL has 'plain' without :// after it; write plain://host:port"),
            ("plaim://h", "did you mean plain://?"),
            ("socks6://h", "(each also with +tls), http://, https://, plain:// or plains://"),
            ("socks5h://plain://h", "proxy URL has a second URL in it"),
        ],
    )
    def test_new_kind_is_known_to_the_errors_of_urls(self, url: str, text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(text)):
            Proxy.from_url(url)

    def test_new_kind_has_its_fields_checked(self) -> None:
        with pytest.raises(
            ValueError, match="proxy headers are for HTTP proxies only, but the scheme"
        ):
            Proxy("h", scheme="plain", headers={"A": "b"})
        with pytest.raises(
            ValueError, match="proxy password is given, but a plain proxy takes none"
        ):
            Proxy("h", scheme="plain", username="u", password="p")

    def test_new_kind_refuses_a_command_that_it_does_not_have(self) -> None:
        with pytest.raises(ValueError, match="a plain proxy does not support BIND"):
            start("plain://h", "h", 80, "bind")


def test_new_kind_is_not_known_without_its_scheme() -> None:
    with pytest.raises(ValueError, match="proxy scheme 'plain' is not one of"):
        Proxy.from_url("plain://h")
