"""The kinds of proxy as data, for the tests of what a proxy of every kind must show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from socksclient import Proxy, SocksError
from socksclient.exceptions import Phase
from socksclient.testing import Faults, SocksServer

from helpers.support import Address, Dial, nothing_left_open

NAME = ("origin.test", 443)
ORIGIN = ("192.0.2.1", 443)


@dataclass(frozen=True)
class Scheme:
    """One kind of proxy.

    Attributes:
        name: The scheme of its URL.
        title: What error texts call the proxy.
        protocol: What error texts and `SocksServer` call its protocol.
        answers: The octets of each answer by which the proxy grants a request, by phase.
        refusal: The code by which `SocksServer` says that the destination refuses.
        meaning: What error texts say for that code.
        accounts: The accounts of the proxy; None if it asks for no credentials.
    """

    name: str
    title: str
    protocol: str
    answers: Mapping[Phase, bytes]
    refusal: int
    meaning: str
    # Texts with local variables, which tests look for secrets in, must not show these.
    accounts: Mapping[str, str] | None = field(default=None, repr=False)

    @property
    def destination(self) -> Address:
        """A name if the proxy resolves names, and an address if this process does."""
        return NAME if self.name in ("socks5h", "socks4a", "http") else ORIGIN

    @property
    def first_phase(self) -> Phase:
        return next(iter(self.answers))

    def prefixes(self) -> Iterator[tuple[int, Phase, bytes]]:
        """Yield each number of octets that do not grant the request yet.

        Each comes with the phase in which the next octet is due, and what of its answer is there.
        """
        before = 0
        for phase, answer in self.answers.items():
            for count in range(len(answer)):
                yield before + count, phase, answer[:count]
            before += len(answer)

    def with_accounts(self, username: str, password: str) -> Scheme:
        """Return this kind of proxy with an account, and so with the phase of authentication."""
        if self.protocol == "SOCKS4":
            return replace(self, accounts={username: ""})
        answers = self.answers
        if self.protocol == "SOCKS5":
            answers = {
                "method selection": b"\x05\x02",
                "authentication": b"\x01\x00",
                "request": answers["request"],
            }
        return replace(self, answers=answers, accounts={username: password})


def _socks4(name: str) -> Scheme:
    answers: dict[Phase, bytes] = {"request": bytes.fromhex("005a 0000 00000000")}
    meaning = "rejected or failed (SOCKS4 CD 5B)"
    return Scheme(name, "a SOCKS4 proxy", "SOCKS4", answers, 0x5B, meaning)


def _socks5(name: str) -> Scheme:
    answers: dict[Phase, bytes] = {
        "method selection": b"\x05\x00",
        "request": bytes.fromhex("05000001 00000000 0000"),
    }
    meaning = "connection refused (REP 05)"
    return Scheme(name, "a SOCKS5 proxy", "SOCKS5", answers, 0x05, meaning)


_HTTP = Scheme(
    "http",
    "an HTTP proxy",
    "HTTP",
    {"request": b"HTTP/1.1 200 OK\r\nVia: a\n\n"},
    502,
    "bad gateway (HTTP 502)",
)

SCHEMES: dict[str, Scheme] = {
    "socks4": _socks4("socks4"),
    "socks4a": _socks4("socks4a"),
    "socks5": _socks5("socks5"),
    "socks5h": _socks5("socks5h"),
    "socks5h with a password": _socks5("socks5h").with_accounts("user", "pass"),
    "http": _HTTP,
}


ODD_FIELDS = [
    b"Content-Length: some",
    b"Content-Length: 1\r\nContent-Length: 2",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Proxy Agent: x",
    b"Proxy-Agent : x",
    b": x",
    b"no colon",
    b"X: \0\xff",
    b" folded",
]
"""Fields of an HTTP head that are not valid, or that mean nothing in the answer to CONNECT."""


def failures(
    dial: Dial,
    scheme: Scheme,
    faults: Sequence[Faults],
    origin: Address,
    accounts: Mapping[str, str] | None = None,
) -> list[SocksError]:
    """Return the error of one connection for each of the faults.

    Each error must name its place, and no connection may leave anything open or try again.

    Args:
        dial: Connects by one of the drivers.
        scheme: The kind of proxy.
        faults: What is wrong with each of the connections.
        origin: Where the proxy finds the destination.
        accounts: The accounts of the proxy, in place of those of `scheme`.
    """
    destination = scheme.destination
    accounts = scheme.accounts if accounts is None else accounts
    routes = {destination: origin}
    with SocksServer(faults=faults, routes=routes, accounts=accounts) as server:
        proxy = Proxy.from_url(server.url_as(scheme.name))
        errors = []
        with nothing_left_open():
            for _ in faults:
                with pytest.raises(SocksError) as held:
                    dial(destination, proxy=proxy)
                errors.append(held.value)
        assert len(server.connections) == len(faults)
    host, port = server.address
    for error in errors:
        assert (error.proxy, error.hop, error.destination) == (proxy, 0, destination)
        place = f"proxy: {host}:{port}, destination: {destination[0]}:{destination[1]}"
        assert str(error) == f"{error.strerror} (phase: {error.phase}, {place})"
    return errors
