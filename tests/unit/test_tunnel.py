"""The generator of the whole way, `tunnel`, driven by a table of answers: no socket, no clock."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from socksclient import AuthenticationError, Exchange, Flow, Method, Proxy
from socksclient.exceptions import (
    ConnectionRefused,
    ProtocolError,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.protocol import Command, HostPort, Phase, ProxyLike, Socks4Reply
from socksclient.protocol.address import Host
from socksclient.protocol.exceptions import reply_error
from socksclient.protocol.proxy import as_chain
from socksclient.protocol.route import NOT_KNOWN, Route
from socksclient.protocol.steps import Event, Grant
from socksclient.protocol.tunnel import handshake, interleave, resolve_target, tunnel

from helpers.step_player import (
    BOUND,
    DEADLINE,
    G_TEST,
    GRANTED,
    GREETING,
    HOP,
    NOT_FOUND,
    OPEN,
    RESOLVER,
    SERVER,
    THREE,
    Answer,
    drive,
    error_of,
    refusal,
    request,
    route,
)

# The requests for `THREE`, and how the way to each begins.
FIRST, SECOND, THIRD = (
    request("01c00002010050"),
    request("0420010db80000000000000000000000020050"),
    request("01c00002030050"),
)
NEXT_WAY = ["connect 192.0.2.9:1080", GREETING]

# One hop


@pytest.mark.parametrize(
    ("url", "asked", "answers", "bound"),
    [
        (
            "socks5h://192.0.2.9",
            ["connect 192.0.2.9:1080", GREETING, request(G_TEST)],
            [SERVER, OPEN, GRANTED],
            BOUND,
        ),
        (
            "socks5h://u:p@[2001:db8::9]:1081",
            ["connect [2001:db8::9]:1081", "05020002", "0101750170", request(G_TEST)],
            [("2001:db8::9", 1081, 0, 0), b"\x05\x02", b"\x01\x00", GRANTED],
            BOUND,
        ),
        (
            "socks5://192.0.2.9",
            [
                "resolve g.test 80",
                "connect 192.0.2.9:1080",
                GREETING,
                request("01c00002010050"),
            ],
            [[("192.0.2.1", 80)], SERVER, OPEN, GRANTED],
            BOUND,
        ),
        (
            "socks4a://192.0.2.9",
            ["connect 192.0.2.9:1080", "0401005000000001" + "00" + b"g.test".hex() + "00"],
            [SERVER, bytes.fromhex("005a1f90c0000207")],
            BOUND,
        ),
        (
            "socks4://me@192.0.2.9",
            ["resolve g.test 80", "connect 192.0.2.9:1080", "04010050c00002016d6500"],
            [[("192.0.2.1", 80)], SERVER, bytes.fromhex("005a1f90c0000207")],
            BOUND,
        ),
        (
            "http://192.0.2.9:3128",
            [
                "connect 192.0.2.9:3128",
                b"CONNECT g.test:80 HTTP/1.1\r\nHost: g.test:80\r\nUser-Agent: socksclient"
                b"\r\n\r\n".hex(),
            ],
            [("192.0.2.9", 3128), b"HTTP/1.1 200\r\n\r\n"],
            ("0.0.0.0", 0),
        ),
        (
            "https://192.0.2.9",
            [
                "connect 192.0.2.9:443",
                "tls with 192.0.2.9",
                b"CONNECT g.test:80 HTTP/1.1\r\nHost: g.test:80\r\nUser-Agent: socksclient"
                b"\r\n\r\n".hex(),
            ],
            [("192.0.2.9", 443), None, b"HTTP/1.1 200\r\n\r\n"],
            ("0.0.0.0", 0),
        ),
        (
            "socks5h+tls://localhost/run/tor/socks",
            ["connect /run/tor/socks", "tls with localhost", GREETING, request(G_TEST)],
            ["/run/tor/socks", None, OPEN, GRANTED],
            BOUND,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tunnel_through_one_hop(
    url: str, asked: list[str], answers: list[Answer], bound: HostPort
) -> None:
    driven = drive(tunnel(route(url)), *answers)
    assert driven == (Grant(bound, None), asked)


@pytest.mark.parametrize(
    ("command", "host", "message", "reply"),
    [
        (Command.BIND, "g.test", request(G_TEST, Command.BIND), GRANTED),
        (Command.RESOLVE, "g.test", request(G_TEST, Command.RESOLVE), GRANTED),
        (
            Command.RESOLVE_PTR,
            "192.0.2.1",
            request("01c00002010050", Command.RESOLVE_PTR),
            bytes.fromhex("05000003016e0000"),
        ),
    ],
)
def test_tunnel_asks_the_last_hop_for_the_command(
    command: Command, host: str, message: str, reply: bytes
) -> None:
    # Under socks5, Tor resolves a name, and this process does not.
    url = RESOLVER if command != Command.BIND else HOP
    driven = drive(tunnel(route(url, host=host, command=command)), SERVER, OPEN, reply)
    assert driven.asked[1:] == [GREETING, message]
    assert isinstance(driven.ends, Grant)


# Chains


def test_tunnel_through_a_chain_of_two() -> None:
    driven = drive(
        tunnel(route(HOP, "http://far.test:3128")),
        *(SERVER, OPEN, GRANTED, b"HTTP/1.1 200\r\n\r\n"),
    )
    assert driven.asked[:3] == [
        "connect 192.0.2.9:1080",
        GREETING,
        request("0308" + b"far.test".hex() + "0c38"),
    ]
    assert bytes.fromhex(driven.asked[3]).startswith(b"CONNECT g.test:80 HTTP/1.1\r\n")
    # The bound address is that of the last hop, which has the address that the first was asked for.
    assert driven.ends == Grant(("0.0.0.0", 0), ("far.test", 3128))


def test_tunnel_through_a_chain_of_three_with_tls_in_tls() -> None:
    driven = drive(
        tunnel(route("socks5h+tls://near.test", "socks4a://middle.test", "socks5h+tls://far.test")),
        [SERVER],
        SERVER,
        None,
        *(OPEN, GRANTED, bytes.fromhex("005a000000000000")),
        None,
        *(OPEN, GRANTED),
    )
    assert driven.asked == [
        "resolve near.test 1080",
        "connect 192.0.2.9:1080",
        "tls with near.test",
        GREETING,
        request("030b" + b"middle.test".hex() + "0438"),
        "0401" + "0438" + "00000001" + "00" + b"far.test".hex() + "00",
        "tls with far.test",
        GREETING,
        request(G_TEST),
    ]
    assert driven.ends == Grant(BOUND, ("far.test", 1080))


def test_tunnel_resolves_every_name_before_it_connects() -> None:
    driven = drive(
        tunnel(route("socks5://near.test", "socks5://middle.test", "socks5://far.test")),
        [("192.0.2.2", 1080)],
        [("192.0.2.3", 1080)],
        [("192.0.2.1", 80)],
        [SERVER],
        *(SERVER, OPEN, GRANTED, OPEN, GRANTED, OPEN, GRANTED),
    )
    assert driven.asked[:5] == [
        "resolve middle.test 1080",
        "resolve far.test 1080",
        "resolve g.test 80",
        "resolve near.test 1080",
        "connect 192.0.2.9:1080",
    ]
    # The address of the last hop is the one that the hop before was asked for, not its name.
    assert driven.ends == Grant(BOUND, ("192.0.2.3", 1080))


def test_tunnel_that_cannot_resolve_the_destination_connects_to_no_proxy() -> None:
    failure = socket.gaierror(socket.EAI_NONAME, "not known")
    driven = drive(tunnel(route("socks5://near.test")), failure)
    assert driven.asked == ["resolve g.test 80"]
    error_of(driven, ResolveError)


# The addresses of a target


@pytest.mark.parametrize("rep", [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x5A, 0xF0, 0xFF])
def test_tunnel_asks_for_the_next_address_after_a_refusal(rep: int) -> None:
    driven = drive(
        tunnel(route(RESOLVER)),
        *(THREE, SERVER, OPEN, refusal(rep), SERVER, OPEN, refusal(rep), SERVER, OPEN, GRANTED),
    )
    assert driven.ends == Grant(BOUND, None)
    assert driven.asked == [
        "resolve g.test 80",
        *(*NEXT_WAY, FIRST),
        *(*NEXT_WAY, SECOND),
        *(*NEXT_WAY, THIRD),
    ]


@pytest.mark.parametrize("octets", [b"", b"\x05", GRANTED[:4], GRANTED[:-1]])
def test_tunnel_asks_for_the_next_address_after_a_hang_up_on_the_request(octets: bytes) -> None:
    # `ssh -D` hangs up on every failure.
    driven = drive(tunnel(route(RESOLVER)), THREE, SERVER, OPEN, octets, SERVER, OPEN, GRANTED)
    assert driven.ends == Grant(BOUND, None)
    assert driven.asked[-1] == SECOND


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([SERVER, OPEN, refusal(0x07)], ReplyError),
        ([SERVER, OPEN, b"\x04\x00"], ProtocolError),
        ([SERVER, b""], ProxyClosed),
        ([SERVER, b"\x05\xff"], AuthenticationError),
        ([SERVER, OPEN, TimeoutError()], ProxyTimeout),
        ([SERVER, TimeoutError()], ProxyTimeout),
        ([OSError(errno.ECONNREFUSED, "refused")], ProxyConnectError),
    ],
)
def test_tunnel_does_not_ask_for_the_next_address_after_other_errors(
    answers: list[Answer], kind: type[SocksError]
) -> None:
    error_of(drive(tunnel(route(RESOLVER)), THREE, *answers), kind)


@pytest.mark.parametrize(("code", "is_tried"), [(0x5B, True), (0x5C, False), (0x5D, False)])
def test_tunnel_asks_socks4_for_the_next_address_only_after_91(code: int, is_tried: bool) -> None:
    # A proxy that wants an identd here wants it whatever the address is.
    reply = bytes([0, code, 0, 0, 0, 0, 0, 0])
    more: list[Answer] = [SERVER, bytes.fromhex("005a1f90c0000207")] if is_tried else []
    addresses: list[Any] = [("192.0.2.1", 80), ("192.0.2.3", 80)]
    driven = drive(tunnel(route("socks4://192.0.2.9")), addresses, SERVER, reply, *more)
    if is_tried:
        assert driven.ends == Grant(BOUND, None)
    else:
        error = error_of(driven, type(reply_error(Socks4Reply(code))))
        assert (error.addresses_tried, error.addresses_left) == (1, ("192.0.2.3",))


def test_tunnel_asks_for_the_next_address_after_rep_5c_of_socks5() -> None:
    # REP 5C is not assigned. CD 5C of SOCKS4 says that no other address would help.
    assert int(Socks4Reply.NO_IDENTD) == 0x5C
    driven = drive(
        tunnel(route(RESOLVER)), THREE, SERVER, OPEN, refusal(0x5C), SERVER, OPEN, GRANTED
    )
    assert driven.ends == Grant(BOUND, None)


def test_tunnel_keeps_the_addresses_of_each_hop_apart() -> None:
    two: list[Any] = [("192.0.2.2", 1080), ("192.0.2.4", 1080)]
    driven = drive(
        tunnel(route(RESOLVER, "socks5://far.test")),
        *(two, THREE, SERVER, OPEN, refusal(5)),
        *(SERVER, OPEN, GRANTED, OPEN, refusal(5)),
        *(SERVER, OPEN, GRANTED, OPEN, GRANTED),
    )
    assert driven.asked == [
        "resolve far.test 1080",
        "resolve g.test 80",
        *(*NEXT_WAY, request("01c00002020438")),
        *(*NEXT_WAY, request("01c00002040438"), GREETING, FIRST),
        *(*NEXT_WAY, request("01c00002040438"), GREETING, SECOND),
    ]
    assert driven.ends == Grant(BOUND, ("192.0.2.4", 1080))


@pytest.mark.parametrize(
    ("url", "found", "text"),
    [
        (RESOLVER, [("fe80::1", 80, 0, 2)], "g.test has no address that the proxy could reach: "),
        (RESOLVER, [("fe80::1%2", 80, 0, 0)], "g.test has no address that the proxy could reach: "),
        ("socks4://192.0.2.9", [("2001:db8::1", 80, 0, 0)], "reach: 2001:db8::1"),
        ("socks4://192.0.2.9", [("0.0.0.7", 80)], "reach: 0.0.0.7"),
    ],
)
def test_tunnel_leaves_out_addresses_that_the_proxy_cannot_be_asked_for(
    url: str, found: list[Any], text: str
) -> None:
    error = error_of(drive(tunnel(route(url)), found), ResolveError)
    assert text in str(error)
    assert error.phase == "resolve"
    good: list[Any] = [*found, ("192.0.2.1", 80)]
    reply = GRANTED if url == RESOLVER else bytes.fromhex("005a1f90c0000207")
    answers: list[Answer] = [SERVER, OPEN, reply] if url == RESOLVER else [SERVER, reply]
    assert drive(tunnel(route(url)), good, *answers).ends == Grant(BOUND, None)


# The addresses of the nearest proxy


def test_tunnel_connects_to_the_families_in_turn() -> None:
    found: list[Any] = [("192.0.2.1", 1), ("192.0.2.2", 1), ("2001:db8::1", 1, 0, 0)]
    driven = drive(tunnel(route("socks5h://near.test:1")), found, found[0], OPEN, GRANTED)
    assert driven.asked[1] == "connect 192.0.2.1:1 or [2001:db8::1]:1 or 192.0.2.2:1"


def test_tunnel_begins_the_next_way_with_the_server_that_has_answered() -> None:
    servers: list[Any] = [("192.0.2.11", 1), ("192.0.2.12", 1), ("192.0.2.13", 1)]
    driven = drive(
        tunnel(route("socks5://near.test:1")),
        *(THREE, servers, servers[1], OPEN, refusal(5)),
        *(servers[2], OPEN, refusal(5)),
        *(servers[2], OPEN, GRANTED),
    )
    connects = [step for step in driven.asked if step.startswith("connect")]
    assert connects == [
        "connect 192.0.2.11:1 or 192.0.2.12:1 or 192.0.2.13:1",
        "connect 192.0.2.12:1 or 192.0.2.11:1 or 192.0.2.13:1",
        "connect 192.0.2.13:1 or 192.0.2.12:1 or 192.0.2.11:1",
    ]
    # Each name is resolved once.
    assert [step for step in driven.asked if step.startswith("resolve")] == driven.asked[:2]


def test_tunnel_leaves_a_zone_id_to_the_resolver() -> None:
    found: list[Any] = [("fe80::1", 1080, 0, 2)]
    driven = drive(tunnel(route("socks5h://[fe80::1%eth0]")), found, found[0], OPEN, GRANTED)
    assert driven.asked[:2] == ["resolve fe80::1%eth0 1080", "connect [fe80::1]:1080"]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([], []),
        (["192.0.2.1"], ["192.0.2.1"]),
        (["::1", "::2", "192.0.2.1"], ["::1", "192.0.2.1", "::2"]),
        (["192.0.2.1", "::1", "::2", "192.0.2.2"], ["192.0.2.1", "::1", "192.0.2.2", "::2"]),
    ],
)
def test_interleave_lets_the_families_take_turns(found: list[str], wanted: list[str]) -> None:
    assert [host for host, *_ in interleave((host, 80) for host in found)] == wanted


# UDP ASSOCIATE


@pytest.mark.parametrize(
    ("urls", "answers", "address"),
    [
        ([HOP], [SERVER], "01000000000000"),
        (["socks5h://[2001:db8::9]"], [("2001:db8::9", 1080, 0, 0)], "04" + "00" * 18),
        # The driver has connected by IPv6 to the second address of a name.
        (
            ["socks5h://near.test"],
            [[SERVER, ("::1", 1080, 0, 0)], ("::1", 1080, 0, 0)],
            "04" + "00" * 18,
        ),
        (["socks5h://localhost/run/proxy"], ["/run/proxy"], "01000000000000"),
        ([HOP, "socks5h://[2001:db8::8]"], [SERVER, OPEN, GRANTED], "04" + "00" * 18),
        ([HOP, "socks5h://192.0.2.8"], [SERVER, OPEN, GRANTED], "01000000000000"),
        # This process does not know at which address the hop before reaches the name.
        ([HOP, "socks5h://far.test"], [SERVER, OPEN, GRANTED], "01000000000000"),
    ],
)
def test_tunnel_announces_an_unknown_source_in_the_family_of_the_proxy(
    urls: list[str], answers: list[Answer], address: str
) -> None:
    udp = route(*urls, host=NOT_KNOWN[0], port=NOT_KNOWN[1], command=Command.UDP_ASSOCIATE)
    driven = drive(tunnel(udp), *answers, OPEN, GRANTED)
    assert isinstance(driven.ends, Grant)
    assert driven.asked[-1] == request(address, Command.UDP_ASSOCIATE)


def test_tunnel_announces_a_known_source_as_it_is() -> None:
    udp = route(
        "socks5h://[2001:db8::9]", host="192.0.2.5", port=5000, command=Command.UDP_ASSOCIATE
    )
    driven = drive(tunnel(udp), ("2001:db8::9", 1080, 0, 0), OPEN, GRANTED)
    assert driven.asked[-1] == request("01c00002051388", Command.UDP_ASSOCIATE)


# The events


def events_of(way: Route, *answers: Answer) -> list[Event]:
    events: list[Event] = []
    drive(tunnel(way, events.append), *answers)
    return events


def test_tunnel_reports_phases_and_octets_of_every_hop() -> None:
    chain = route("socks5h+tls://u:p@near.test", "socks4a://far.test")
    answers: list[Answer] = [[SERVER], SERVER, None, b"\x05\x02", b"\x01\x00", GRANTED]
    events = events_of(chain, *answers, bytes.fromhex("005a1f90c0000207"))
    to_far = bytes.fromhex(request("0308" + b"far.test".hex() + "0438"))
    socks4a = bytes.fromhex("0401005000000001" + "00" + b"g.test".hex() + "00")
    assert events == [
        Event(0, "resolve", "note", note="resolve near.test"),
        Event(0, "connect", "note", note="connect"),
        Event(0, "tls", "note", note="tls"),
        Event(0, "method selection", "note", note="method selection"),
        Event(0, "method selection", "sent", b"\x05\x02\x00\x02"),
        Event(0, "method selection", "received", b"\x05\x02"),
        Event(0, "authentication", "note", note="authentication"),
        Event(0, "authentication", "sent", b"\x01\x01u\x01p", is_secret=True),
        Event(0, "authentication", "received", b"\x01\x00", is_secret=True),
        Event(0, "request", "note", note="request"),
        Event(0, "request", "sent", to_far),
        Event(0, "request", "received", GRANTED[:5]),
        Event(0, "request", "received", GRANTED[5:]),
        Event(0, "request", "note", note="granted, bound address '192.0.2.7:8080'"),
        Event(1, "request", "note", note="request"),
        Event(1, "request", "sent", socks4a),
        Event(1, "request", "received", bytes.fromhex("005a1f90c0000207")),
        Event(1, "request", "note", note="granted, bound address '192.0.2.7:8080'"),
    ]


def test_tunnel_reports_the_octets_before_a_hang_up_and_the_failure() -> None:
    assert events_of(route(HOP), SERVER, b"\x05")[-2:] == [
        Event(0, "method selection", "received", b"\x05"),
        Event(
            0,
            "method selection",
            "note",
            note="failed: the proxy hung up before the end of its message: got 1 of 2 octets",
        ),
    ]


def test_tunnel_reports_octets_with_credentials_before_a_hang_up_as_secret() -> None:
    # The proxy may have repeated the credentials.
    events = events_of(route("socks5h://u:p@192.0.2.9"), SERVER, b"\x05\x02", b"\x01")
    assert events[-2] == Event(0, "authentication", "received", b"\x01", is_secret=True)


def test_tunnel_reports_each_address_that_it_tries() -> None:
    events = events_of(route(RESOLVER), THREE, SERVER, OPEN, refusal(5), SERVER, OPEN, GRANTED)
    notes = [event.note for event in events if event.note]
    handshake_notes = ["connect", "method selection", "request"]
    assert notes == [
        "resolve g.test",
        *handshake_notes,
        "failed: the proxy refused the request: connection refused (REP 05)",
        *handshake_notes,
        "granted, bound address '192.0.2.7:8080'",
    ]


def test_tunnel_asks_for_the_same_steps_with_a_report_and_without() -> None:
    chain = route("socks5://near.test", "http://u:p@far.test")
    answers: list[Answer] = [[("192.0.2.2", 80)], [SERVER], SERVER, OPEN, GRANTED]
    answers.append(b"HTTP/1.1 200\r\n\r\n")
    observed = drive(tunnel(chain, lambda event: None), *answers)
    assert observed == drive(tunnel(chain), *answers)


def test_tunnel_passes_on_the_error_of_a_report() -> None:
    def report(event: Event) -> None:
        raise KeyError(event.phase)

    driven = drive(tunnel(route("socks5h://near.test"), report))
    assert isinstance(driven.ends, KeyError)


def test_tunnel_that_is_closed_closes_the_flow_of_its_hop() -> None:
    closed = []

    def negotiate(proxy: Proxy) -> Flow[None]:
        try:
            yield Exchange(b"token", 1)
        finally:
            closed.append(proxy)

    proxy = Proxy("192.0.2.9", methods=(Method(0x80, negotiate),))
    for report in (None, lambda event: None):
        steps = tunnel(route(proxy), report)
        next(steps)
        for answer in (SERVER, b"\x05\x80"):
            steps.send(answer)
        steps.close()
    assert closed == [proxy, proxy]


# A handshake on a connection that is there already


def on_connection(proxy: ProxyLike, host: str = "g.test") -> Route:
    [hop] = as_chain(proxy)
    return Route.on_connection(hop, host, 80)


@pytest.mark.parametrize(
    ("url", "answers", "asked"),
    [
        (HOP, [OPEN, GRANTED], [GREETING, request(G_TEST)]),
        # The name of the proxy is not resolved.
        ("socks5h://near.test", [OPEN, GRANTED], [GREETING, request(G_TEST)]),
        # Another address would need another connection.
        (
            "socks5://near.test",
            [THREE, OPEN, GRANTED],
            ["resolve g.test 80", GREETING, FIRST],
        ),
    ],
)
def test_handshake_on_a_connection_begins_with_the_first_message(
    url: str, answers: list[Answer], asked: list[str]
) -> None:
    assert drive(handshake(on_connection(url)), *answers) == (BOUND, asked)


@pytest.mark.parametrize(
    ("url", "answers", "kind", "phase"),
    [
        (RESOLVER, [NOT_FOUND], ResolveError, "resolve"),
        (RESOLVER, [THREE, OPEN, refusal(5)], ConnectionRefused, "request"),
        (HOP, [b""], ProxyClosed, "method selection"),
        (HOP, [OPEN, DEADLINE], ProxyTimeout, "request"),
    ],
)
def test_handshake_on_a_connection_adds_the_place_to_errors(
    url: str, answers: list[Answer], kind: type[SocksError], phase: Phase
) -> None:
    events: list[Event] = []
    driven = drive(handshake(on_connection(url), events.append), *answers)
    error = error_of(driven, kind)
    assert (error.proxy, error.hop, error.phase) == (Proxy.from_url(url), 0, phase)
    assert error.destination == ("g.test", 80)
    assert events[-1] == Event(0, phase, "note", note=f"failed: {error.strerror}")


def test_handshake_on_a_connection_reports_phases_and_octets() -> None:
    events: list[Event] = []
    drive(handshake(on_connection(RESOLVER), events.append), THREE, OPEN, GRANTED)
    assert events == [
        Event(0, "resolve", "note", note="resolve g.test"),
        Event(0, "method selection", "note", note="method selection"),
        Event(0, "method selection", "sent", bytes.fromhex(GREETING)),
        Event(0, "method selection", "received", OPEN),
        Event(0, "request", "note", note="request"),
        Event(0, "request", "sent", bytes.fromhex(FIRST)),
        Event(0, "request", "received", GRANTED[:5]),
        Event(0, "request", "received", GRANTED[5:]),
        Event(0, "request", "note", note="granted, bound address '192.0.2.7:8080'"),
    ]


def test_handshake_on_a_connection_leaves_the_error_of_a_mistake_as_it_is() -> None:
    error = KeyError("mine")
    assert drive(handshake(on_connection(HOP)), error).ends is error


@pytest.mark.parametrize(
    ("url", "host", "answers", "asked", "found"),
    [
        (RESOLVER, "g.test", [THREE], ["resolve g.test 80"], "192.0.2.1"),
        (RESOLVER, "192.0.2.5", [], [], "192.0.2.5"),
        (HOP, "g.test", [], [], "g.test"),
    ],
)
def test_resolve_target_returns_the_first_address(
    url: str, host: str, answers: list[Answer], asked: list[str], found: str
) -> None:
    notes: list[str] = []
    steps = resolve_target(on_connection(url, host).last, notes.append)
    assert drive(steps, *answers) == ((Host.of(found), 80), asked)
    assert notes == ["resolve g.test"] * len(asked)
    # Nobody has to take the notes.
    assert drive(resolve_target(on_connection(url, host).last), *answers).asked == asked


def test_resolve_target_without_an_address_is_a_resolveerror() -> None:
    error = drive(resolve_target(on_connection(RESOLVER).last), NOT_FOUND).ends
    assert type(error) is ResolveError
    # The callers of `resolve_target` add the place.
    assert (error.proxy, error.__cause__) == (None, NOT_FOUND)
