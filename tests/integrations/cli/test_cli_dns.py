"""`socksclient dns`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from socksclient._cli.main import main
from socksclient.protocol.codes import Phase
from socksclient.testing import Faults, SocksServer

from helpers.command_line import assert_one_error
from helpers.support import REFUSED_PORT, Address, answering_datagrams, encode_datagram_header

pytest_plugins = ["helpers.cli_fixtures"]


# Nothing listens at this address (RFC 5737): the proxy has a route from it to the name server.
NAME_SERVER = "192.0.2.53"
RECORDS = {
    ("a.test.", "A"): ["192.0.2.1"],
    ("a.test.", "AAAA"): ["2001:db8::1"],
    ("a.test.", "TXT"): ['"hello" "world"'],
    ("two.test.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("www.a.test.", "CNAME"): ["a.test."],
    ("xn--strae-oqa.test.", "A"): ["192.0.2.3"],
}


def answer(octets: bytes) -> dns.message.Message | None:
    """Return the answer to a query, or None if the name server says nothing."""
    query = dns.message.from_wire(octets)
    response = dns.message.make_response(query)
    name, kind = query.question[0].to_text().lower().split(" in ")
    kind = kind.upper()
    if name == "silent.test.":
        return None
    if name == "long.test.":
        response.flags |= dns.flags.TC
    elif name == "failing.test.":
        response.set_rcode(dns.rcode.SERVFAIL)
    elif name not in {name for name, _ in RECORDS}:
        response.set_rcode(dns.rcode.NXDOMAIN)
    for link in [(name, "CNAME"), (name.removeprefix("www."), kind)]:
        if link in RECORDS:
            response.answer.append(dns.rrset.from_text(link[0], 60, "IN", link[1], *RECORDS[link]))
    return response


@pytest.fixture(scope="module")
def name_server() -> Iterator[Address]:
    """Run a name server that listens over UDP only."""

    def respond(octets: bytes) -> bytes | None:
        response = answer(octets)
        return None if response is None else response.to_wire()

    with answering_datagrams(respond) as address:
        yield address


@pytest.fixture
def proxy(name_server: Address) -> Iterator[SocksServer]:
    hosts = [NAME_SERVER, "2001:db8::53", "dns.test"]
    routes = {(host, port): name_server for host in hosts for port in (53, 5353)}
    with SocksServer(routes=routes, accounts={"user": "s3cret"}) as proxy:
        yield proxy


def dns_command(
    proxy: SocksServer | str,
    *arguments: str,
    server: str = NAME_SERVER,
    timeout: str = "10",
) -> int:
    """Run `socksclient dns` in this process, and return its exit status."""
    url = proxy if isinstance(proxy, str) else proxy.url
    options = [f"--server={server}", f"--proxy={url}", f"--timeout={timeout}"]
    return main(["dns", *options, *arguments])


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["a.test"], ["192.0.2.1"]),
        (["two.test", "A"], ["192.0.2.1", "192.0.2.2"]),
        (["A.test.", "aaaa"], ["2001:db8::1"]),
        (["a.test", "TXT"], ['"hello" "world"']),
        (["www.a.test", "AAAA"], ["2001:db8::1", "a.test."]),
        (["a.test", "MX"], []),
        (["a.test", "TYPE65280"], []),
    ],
    ids=" ".join,
)
def test_dns_prints_the_records(
    proxy: SocksServer,
    arguments: list[str],
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dns_command(proxy, *arguments) == 0
    out, err = capsys.readouterr()
    # The records of one name come in any order.
    assert sorted(out.splitlines()) == lines
    assert err == ""


@pytest.mark.usefixtures("logging_as_before")
def test_dns_verbose_prints_the_whole_answer_and_the_steps(
    proxy: SocksServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dns_command(proxy, "-v", "a.test") == 0
    out, err = capsys.readouterr()
    assert "opcode QUERY\nrcode NOERROR\n" in out
    assert ";QUESTION\na.test. IN A\n;ANSWER\na.test. 60 IN A 192.0.2.1\n" in out
    assert [line.rpartition(": ")[2].split()[0] for line in err.splitlines()] == [
        *("connect", "method", "authentication", "request", "granted,", "relay")
    ]
    assert all(" ms  UDP ASSOCIATE via socks5h://***@" in line for line in err.splitlines())
    assert "s3cret" not in err


def test_dns_encodes_the_name_by_idna_2008(
    proxy: SocksServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dns_command(proxy, "Straße.test") == 0
    assert capsys.readouterr().out == "192.0.2.3\n"
    [(_, octets)] = proxy.requests[0].datagrams
    [question] = dns.message.from_wire(octets).question
    assert question.name.to_text() == "xn--strae-oqa.test."


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [
        ("192.0.2.53", "192.0.2.53", 53),
        ("192.0.2.53:5353", "192.0.2.53", 5353),
        ("2001:db8::53", "2001:db8::53", 53),
        ("[2001:db8::53]", "2001:db8::53", 53),
        ("[2001:db8::53]:5353", "2001:db8::53", 5353),
        ("dns.test", "dns.test", 53),
        ("dns.test:5353", "dns.test", 5353),
    ],
)
def test_dns_server_takes_a_host_and_a_port(
    proxy: SocksServer,
    server: str,
    host: str,
    port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dns_command(proxy, "a.test", server=server) == 0
    [(destination, _)] = proxy.requests[0].datagrams
    assert destination == (host, port)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "server", "words"),
    [
        (["a.test", "NOPE"], NAME_SERVER, "unknown"),
        (["a.test", "TYPE65536"], NAME_SERVER, "65535"),
        (["a..test"], NAME_SERVER, "label is empty"),
        (["n" * 64], NAME_SERVER, "label"),
        (["☃.test"], NAME_SERVER, "U+2603"),
        (["a.test"], "dns.test:70000", "port 70000"),
        (["a.test"], "dns.test:0", "port 0"),
        (["a.test"], "dns server", "' ' in it"),
        (["a.test"], "n" * 256, "256 octets"),
        (["a.test"], "fe80::1%eth0", "zone id"),
    ],
)
def test_dns_sends_nothing_if_an_argument_is_not_valid(
    proxy: SocksServer,
    arguments: list[str],
    server: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dns_command(proxy, *arguments, server=server) == 2
    assert_one_error(capsys, words)
    assert proxy.connections == []


def test_dns_goes_through_a_chain_of_proxies(
    proxy: SocksServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with SocksServer() as first:
        assert dns_command(first, "a.test", f"--proxy={proxy.url}") == 0
        assert capsys.readouterr().out == "192.0.2.1\n"
        [(_, carried)] = [datagram for one in first.requests for datagram in one.datagrams]
    [(place, query)] = proxy.requests[0].datagrams
    assert place == (NAME_SERVER, 53)
    assert carried == encode_datagram_header(*place) + query


def test_dns_uses_the_proxy_in_all_proxy(
    proxy: SocksServer,
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["dns", "a.test", f"--server={NAME_SERVER}"]
    assert main(arguments) == 2
    assert_one_error(capsys, "no proxy for this destination")
    environment.setenv("ALL_PROXY", proxy.url)
    environment.setenv("NO_PROXY", f"{NAME_SERVER}:5353")
    assert main(arguments) == 0
    assert capsys.readouterr().out == "192.0.2.1\n"
    environment.setenv("NO_PROXY", f"{NAME_SERVER}:53")
    assert main(arguments) == 2
    assert_one_error(capsys, "no proxy for this destination")
    assert len(proxy.connections) == 1


def test_dns_exits_with_2_if_the_proxy_url_is_not_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert dns_command("127.0.0.1:1080", "a.test") == 2
    assert_one_error(capsys, "proxy URL has no scheme")


@pytest.mark.parametrize(
    ("name", "timeout", "words"),
    [
        ("nowhere.test", "10", "the name server answered NXDOMAIN"),
        ("failing.test", "10", "the name server answered SERVFAIL"),
        ("silent.test", "1", "timed out"),
    ],
)
def test_dns_exits_with_1_if_the_name_server_fails(
    proxy: SocksServer,
    name: str,
    timeout: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dns_command(proxy, name, timeout=timeout) == 1
    assert_one_error(capsys, words)


@pytest.mark.usefixtures("logging_as_before")
def test_dns_verbose_prints_the_whole_answer_with_an_error(
    proxy: SocksServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dns_command(proxy, "-v", "nowhere.test") == 1
    assert "rcode NXDOMAIN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("faults", "name", "status", "words"),
    [
        ([Faults(stall_after=0)], "a.test", 4, "timed out"),
        ([Faults(), Faults(stall_after=2)], "long.test", 4, "timed out"),
        ([Faults(answers={"method selection": b"HTTP/1.0"})], "a.test", 5, "an HTTP proxy"),
        ([Faults(close_after=4)], "a.test", 5, "does not offer UDP ASSOCIATE"),
        ([Faults(method=0xFF)], "a.test", 6, "the proxy accepts none of the methods"),
        ([Faults(reply=0x07)], "a.test", 7, "does not offer UDP ASSOCIATE"),
        ([Faults(), Faults(reply=0x05)], "long.test", 7, "connection refused (REP 05)"),
        ([Faults(end_after=1)], "silent.test", 7, "the proxy ended the UDP association"),
    ],
    ids=str,
)
def test_dns_has_an_exit_status_for_each_error_of_the_proxy(
    proxy: SocksServer,
    faults: list[Faults],
    name: str,
    status: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy.misbehave(faults)
    assert dns_command(proxy, name, timeout="1" if status == 4 else "10") == status
    assert_one_error(capsys, words)


def test_dns_exits_with_1_if_the_answer_over_tcp_breaks_off(
    proxy: SocksServer, capsys: pytest.CaptureFixture[str]
) -> None:
    # The proxy says that it has connected over TCP, and then hangs up.
    granted: dict[Phase, bytes] = {"request": b"\5\0\0\1\x7f\0\0\1\0\x35"}
    proxy.misbehave([Faults(), Faults(reply=0x05, answers=granted)])
    assert dns_command(proxy, "long.test") == 1
    # The text depends on whether the end or a reset comes first.
    assert_one_error(capsys, "")


def test_dns_exits_with_3_if_nothing_listens_at_the_proxy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dns_command(f"socks5h://127.0.0.1:{REFUSED_PORT}", "a.test") == 3
    assert_one_error(capsys, "cannot reach the proxy: Connection refused")


def test_dns_exits_with_8_if_this_machine_cannot_resolve_the_server(
    proxy: SocksServer,
    names: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = proxy.url.replace("socks5h", "socks5")
    assert dns_command(url, "a.test", server="nowhere.test") == 8
    assert_one_error(capsys, "cannot resolve nowhere.test")


def test_dns_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dns"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "socksclient.dnspython", raising=False)
    assert dns_command("socks5h://127.0.0.1", "a.test") == 1
    assert_one_error(capsys, "pip install 'socksclient[dns]'")
