"""Where a proxy listens or relays, by the bound address of its reply, with no socket."""

from __future__ import annotations

import errno
import re
from typing import Any

import pytest

from socksclient import ProtocolError, ProxyClosed
from socksclient._net.bound_address import listening_at, reachable
from socksclient.protocol import Host, HostPort
from socksclient.protocol.steps import Grant


class Control:
    """A connection to the nearest hop, which knows the address of its peer and nothing else."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer

    def getpeername(self) -> Any:
        if isinstance(self.peer, OSError):
            raise self.peer
        return self.peer


BY_IPV4 = Control(("192.0.2.9", 1080))
BY_IPV6 = Control(("2001:db8::9", 1080, 0, 0))
BY_ZONE = Control(("fe80::9", 1080, 0, 2))
# An IPv6 socket has such a peer if the caller wrote the proxy's address so.
BY_MAPPED = Control(("::ffff:192.0.2.9", 1080, 0, 0))
BY_UNIX_SOCKET = Control("/run/proxy")
GONE = Control(OSError(errno.ENOTCONN, "Transport endpoint is not connected"))


@pytest.mark.parametrize("control", [BY_IPV4, BY_UNIX_SOCKET, GONE])
@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "relay.test", "64:ff9b::192.0.2.1"])
def test_reachable_is_the_bound_address_if_a_host_can_have_it(control: Control, host: str) -> None:
    parsed = Host.parse(host)
    assert reachable(control, Grant((host, 5000), None)) == (parsed, (parsed.text, 5000))
    assert reachable(control, Grant((host, 5000), ("far.test", 1))) == (
        parsed,
        (parsed.text, 5000),
    )


@pytest.mark.parametrize(
    ("control", "bound", "wanted"),
    [
        (BY_IPV4, "0.0.0.0", ("192.0.2.9", 5000)),
        (BY_IPV4, "::", ("192.0.2.9", 5000)),
        (BY_IPV6, "0.0.0.0", ("2001:db8::9", 5000, 0, 0)),
        (BY_ZONE, "::", ("fe80::9", 5000, 0, 2)),
        (BY_MAPPED, "0.0.0.0", ("192.0.2.9", 5000)),
        # A proxy at a unix socket is on this machine.
        (BY_UNIX_SOCKET, "0.0.0.0", ("127.0.0.1", 5000)),
        (BY_UNIX_SOCKET, "::", ("::1", 5000)),
    ],
)
def test_reachable_is_the_proxy_itself_if_the_bound_address_is_unspecified(
    control: Control, bound: str, wanted: tuple[Any, ...]
) -> None:
    assert reachable(control, Grant((bound, 5000), None)) == (Host.of(wanted[0]), wanted)


@pytest.mark.parametrize("bound", ["192.0.2.7", "relay.test", "0.0.0.0", "255.255.255.255", ""])
def test_reachable_is_the_proxy_itself_if_its_reply_is_not_trusted(bound: str) -> None:
    found = reachable(BY_IPV4, Grant((bound, 5000), None), trust=False)
    assert found == (Host.of("192.0.2.9"), ("192.0.2.9", 5000))


@pytest.mark.parametrize("own", ["192.0.2.8", "far.test"])
@pytest.mark.parametrize(("bound", "trust"), [("0.0.0.0", True), ("192.0.2.7", False)])
def test_reachable_of_the_last_hop_is_where_the_hop_before_has_reached_it(
    own: str, bound: str, trust: bool
) -> None:
    found = reachable(GONE, Grant((bound, 5000), (own, 1080)), trust)
    assert found == (Host.of(own), (own, 5000))


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (("192.0.2.7", 0), "the proxy granted the request, but its bound address has port 0"),
        (("a b", 5000), "the bound address is not valid: host 'a b' has ' ' in it"),
        (("", 5000), "the bound address is not valid: host is empty"),
        (("224.0.0.1", 5000), "no host can have its bound address, 224.0.0.1"),
        (("ff02::1", 5000), "no host can have its bound address, ff02::1"),
    ],
)
def test_reachable_refuses_a_bound_address_that_no_host_can_have(
    bound: HostPort, text: str
) -> None:
    with pytest.raises(ProtocolError, match=re.escape(text)):
        reachable(BY_IPV4, Grant(bound, None))


def test_reachable_tells_that_the_proxy_has_gone() -> None:
    with pytest.raises(ProxyClosed, match="the connection to the proxy broke: ") as caught:
        reachable(GONE, Grant(("0.0.0.0", 5000), None))
    assert caught.value.errno == errno.ENOTCONN
    assert caught.value.__cause__ is GONE.peer


@pytest.mark.parametrize(
    ("control", "bound", "own", "wanted"),
    [
        (BY_IPV4, ("192.0.2.7", 5000), None, ("192.0.2.7", 5000)),
        (BY_IPV4, ("0.0.0.0", 5000), None, ("192.0.2.9", 5000)),
        # The same port at another address is another listener.
        (BY_IPV4, ("192.0.2.7", 1080), None, ("192.0.2.7", 1080)),
        (BY_IPV4, ("192.0.2.9", 1080), ("192.0.2.8", 1080), ("192.0.2.9", 1080)),
        (BY_ZONE, ("::", 5000), None, ("fe80::9", 5000)),
        (BY_UNIX_SOCKET, ("0.0.0.0", 5000), None, ("127.0.0.1", 5000)),
    ],
)
def test_listening_at(
    control: Control, bound: HostPort, own: HostPort | None, wanted: HostPort
) -> None:
    assert listening_at(control, Grant(bound, own)) == wanted


@pytest.mark.parametrize(
    ("control", "bound", "own", "where"),
    [
        (BY_IPV4, ("192.0.2.9", 1080), None, "192.0.2.9:1080"),
        (BY_IPV4, ("0.0.0.0", 1080), None, "192.0.2.9:1080"),
        (BY_MAPPED, ("192.0.2.9", 1080), None, "192.0.2.9:1080"),
        (BY_ZONE, ("fe80::9", 1080), None, "[fe80::9]:1080"),
        (BY_IPV4, ("far.test", 1080), ("far.test", 1080), "far.test:1080"),
    ],
)
def test_listening_at_refuses_the_address_of_the_proxy_itself(
    control: Control, bound: HostPort, own: HostPort | None, where: str
) -> None:
    # 3proxy 0.9.6 to 1.0.0 replies so.
    with pytest.raises(ProtocolError, match=re.escape(f"for the peer at {where}, which is where")):
        listening_at(control, Grant(bound, own))
