"""SOCKS5: RFC 1928, RFC 1929 (username/password), and what Tor adds to them.

The messages come first, then the flows in the order of the RFC, then the kinds of hops. What a
proxy gets wrong is a `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from socksclient.protocol.address import (
    NOT_IN_A_NAME,
    AddressType,
    Host,
    HostPort,
    decode_address,
    encode_address,
    is_address,
)
from socksclient.protocol.codes import Command, Phase, Reply
from socksclient.protocol.exceptions import (
    AuthenticationError,
    ProtocolError,
    ProxyClosed,
    not_what_speaks,
    reply_error,
)
from socksclient.protocol.fields import encode_credential
from socksclient.protocol.flow import ConnectionEnded, Exchange, Flow, HiddenOctets
from socksclient.protocol.proxy import Kind, Method, Proxy

__all__ = [
    "MAX_HEADER_SIZE",
    "NO_AUTHENTICATION",
    "USERNAME_PASSWORD",
    "Socks5",
    "Socks5h",
    "check_answer",
    "check_reply",
    "check_status",
    "datagram_header_size",
    "decode_method",
    "encode_credentials",
    "encode_datagram_header",
    "encode_methods",
    "encode_request",
    "negotiate_nothing",
    "negotiate_password",
    "reply",
    "reply_size",
    "request",
    "select_method",
]

_VERSION = 0x05
_NO_ACCEPTABLE_METHODS = 0xFF

# The messages of the method selection (RFC 1928 §3)


def encode_methods(methods: Sequence[int]) -> bytes:
    """Return VER NMETHODS METHODS, which offers the methods in the order of preference."""
    return bytes([_VERSION, len(methods), *methods])


def decode_method(octets: bytes, offered: Sequence[int]) -> int:
    """Return the method that a proxy has selected by VER METHOD.

    Args:
        octets: The proxy's message.
        offered: The methods that it could select.

    Raises:
        AuthenticationError: The proxy accepts none of the methods.
        ProtocolError: The proxy does not speak SOCKS5, or has selected a method that was not
            offered.
    """
    version, method = octets
    if version != _VERSION:
        raise ProtocolError(not_what_speaks(octets, Socks5.title, "version 05"), octets)
    if method == _NO_ACCEPTABLE_METHODS:
        codes = _list_of_codes(offered)
        if list(offered) == [NO_AUTHENTICATION.code]:
            raise AuthenticationError(
                f"the proxy wants authentication, but no username is given (offered: {codes})"
            )
        raise AuthenticationError(f"the proxy accepts none of the methods offered ({codes})")
    if method not in offered:
        raise ProtocolError(
            f"the proxy selected method {method:02X}, which was not offered"
            f" ({_list_of_codes(offered)})",
            octets,
        )
    return method


def _list_of_codes(methods: Sequence[int]) -> str:
    return ", ".join(f"{method:02X}" for method in methods)


# The messages of the username/password sub-negotiation (RFC 1929 §2)


def encode_credentials(username: str, password: str) -> bytes:
    """Return VER=01 ULEN UNAME PLEN PASSWD."""
    uname = encode_credential("username", username)
    passwd = encode_credential("password", password)
    return b"\x01%c%b%c%b" % (len(uname), uname, len(passwd), passwd)


def check_status(octets: bytes, reserved: bool = False) -> None:
    """Check VER STATUS, by which a proxy accepts or refuses the credentials.

    Args:
        octets: The proxy's message.
        reserved: Whether the user name is one that Tor has reserved.

    Raises:
        AuthenticationError: The proxy has refused the credentials.
        ProtocolError: The version is not that of RFC 1929.
    """
    version, status = octets
    # Some servers answer with the version of SOCKS instead of the sub-negotiation's. Tor is among
    # them (`05 01` to a reserved user name). curl does not look at the version at all.
    if version not in (0x01, _VERSION):
        raise ProtocolError(
            f"the answer to the credentials has version {version:02X} instead of 01", octets
        )
    if status != 0x00:
        refused = f"the proxy refused the credentials (STATUS {status:02X})"
        if version == _VERSION and reserved:
            # Tor says it in the ten octets of a failed reply (proposal 351).
            refused += ": Tor reserves user names that begin with <torS0X>, and this Tor does not"
            refused += " know this one"
        raise AuthenticationError(refused)


# The messages of request and reply (RFC 1928 §4 to §6)


def encode_request(command: int, host: Host, port: int) -> bytes:
    """Return VER CMD RSV ATYP DST.ADDR DST.PORT."""
    return bytes([_VERSION, command, 0x00]) + encode_address(host, port)


def check_reply(octets: bytes | bytearray, command: Command, *, is_first: bool) -> None:
    """Check the beginning of a reply, VER REP. Two octets are enough.

    A refusal is raised before the rest of the reply is looked at: some servers end a refusal after
    two octets or after four, and Tor sends refusals with an ATYP of 0.

    Args:
        octets: The beginning of the reply.
        command: The command of the request.
        is_first: Whether the reply answers the request, and is not the second reply to BIND.

    Raises:
        ReplyError: The proxy refused the request.
        ProtocolError: The version is not 05.
    """
    version, rep = octets[:2]
    if version != _VERSION:
        raise ProtocolError(
            f"the reply to the request has version {version:02X} instead of 05", octets
        )
    if rep == Reply.CONNECTION_NOT_ALLOWED_BY_RULESET and is_first:
        # 3proxy accepts every password, and clients without one, and then refuses their requests.
        hint = "; some proxies also reply this to wrong or missing credentials"
        raise reply_error(Reply(rep), command.text, hint=hint)
    if rep != Reply.SUCCEEDED:
        raise reply_error(Reply(rep), command.text)


def reply_size(head: bytes | bytearray) -> int:
    """Return how many octets a reply has, by its first five.

    Raises:
        ProtocolError: RFC 1928 has no such ATYP.
    """
    atyp, first = head[3:5]
    if atyp == AddressType.IPV4:
        return 4 + 4 + 2
    if atyp == AddressType.IPV6:
        return 4 + 16 + 2
    if atyp == AddressType.DOMAIN_NAME:
        return 4 + 1 + first + 2
    raise ProtocolError(f"the reply has address type {atyp:02X} instead of 01, 03 or 04", head)


def check_answer(command: Command, answer: str) -> None:
    """Check Tor's answer: an IP address to RESOLVE, a name to RESOLVE_PTR.

    Raises:
        ProtocolError: The answer is something else.
    """
    is_good = is_address(answer)
    if command == Command.RESOLVE_PTR:
        is_name = answer != "" and not NOT_IN_A_NAME.search(answer) and "\\" not in answer
        is_good = is_name and not is_good
    if not is_good:
        raise ProtocolError(f"the proxy answered {command.text} with {answer!r}")


# The headers of datagrams (RFC 1928 §7)

MAX_HEADER_SIZE = 4 + 1 + 255 + 2
"""The octets of the longest header of a datagram, which has a name in it."""

_HEADER_SIZES = {b"\0\0\0\x01": 4 + 4 + 2, b"\0\0\0\x04": 4 + 16 + 2}
_NAME_FOLLOWS = b"\0\0\0\x03"


def encode_datagram_header(host: Host, port: int) -> bytes:
    """Return RSV FRAG ATYP DST.ADDR DST.PORT."""
    return b"\0\0\0" + encode_address(host, port)


def datagram_header_size(octets: bytes) -> int:
    """Return how many octets of a datagram are its header; 0 if the datagram is to be dropped.

    A datagram is to be dropped if it is shorter than its header, if RFC 1928 has no such RSV or
    ATYP, and if it is a fragment: a client that does not reassemble must drop fragments.
    """
    size = _HEADER_SIZES.get(octets[:4], 0)
    if octets[:4] == _NAME_FOLLOWS and len(octets) > 4:
        size = 4 + 1 + octets[4] + 2
    return size if size <= len(octets) else 0


# The flows


def select_method(methods: Sequence[Method]) -> Flow[Method]:
    """Offer methods, and return the one that the proxy selects (RFC 1928 §3)."""
    codes = [method.code for method in methods]
    try:
        answer = yield Exchange(encode_methods(codes), 2)
    except ConnectionEnded as ended:
        hint = "; perhaps the server does not speak SOCKS5"
        if codes != [NO_AUTHENTICATION.code]:
            # OpenSSH and asyncssh accept "no authentication" (00) only, and otherwise hang up.
            hint += f", or accepts none of the methods offered ({_list_of_codes(codes)})"
        raise ProxyClosed.within(ended, 2, hint=hint) from ended.__cause__
    return methods[codes.index(decode_method(answer, codes))]


def negotiate_nothing(_proxy: Proxy) -> Flow[None]:
    """Do nothing, which is the sub-negotiation of "no authentication required"."""
    yield from ()


def negotiate_password(proxy: Proxy) -> Flow[None]:
    """Send the username and the password (RFC 1929 §2)."""
    try:
        # The message has no variable of its own, because a traceback can show variables.
        answer = yield Exchange(
            encode_credentials(proxy.username or "", proxy.password or ""), 2, is_secret=True
        )
    except ConnectionEnded as ended:
        raise ProxyClosed.within(ended, 2) from ended.__cause__
    check_status(answer, reserved=(proxy.username or "").startswith("<torS0X>"))


NO_AUTHENTICATION = Method(0x00, negotiate_nothing)
USERNAME_PASSWORD = Method(0x02, negotiate_password)


def request(command: Command, host: Host, port: int) -> Flow[HostPort]:
    """Send a request, and return BND.ADDR and BND.PORT of its reply (RFC 1928 §4, §6)."""
    hint = f"; perhaps the proxy does not offer {command.text}"
    if command == Command.CONNECT:
        hint = "; OpenSSH hangs up when it cannot connect"
    return (yield from reply(command, encode_request(command, host, port), hint))


def reply(command: Command, send: bytes = b"", hint: str = "") -> Flow[HostPort]:
    """Read one reply, and return its BND.ADDR and BND.PORT.

    The flow takes whatever octets have come. So nothing is lost if the driver gives up amid a
    reply, and goes on later.

    Args:
        command: The command of the request.
        send: The request, if the reply answers one.
        hint: The end of the error text if the proxy hangs up and has sent no octet of the reply.
    """
    octets = HiddenOctets()
    is_first = bool(send)
    # A success has at least seven octets, and the first five tell how many octets it has.
    size = 5
    while len(octets) < size:
        left = size - len(octets)
        try:
            octets += yield Exchange(send, left, 1)
        except ConnectionEnded as ended:
            raise ProxyClosed.within(ended, left, bytes(octets), hint) from ended.__cause__
        send = b""
        # A refusal may end after REP: heroku's server sends nothing more.
        if len(octets) >= 2:
            check_reply(octets, command, is_first=is_first)
        if len(octets) == 5:
            size = reply_size(octets)
    return decode_address(bytes(octets[3:]))


# The kinds of hops


class Socks5(Kind):
    """A SOCKS5 proxy that is asked for addresses, because this process resolves names."""

    scheme = "socks5"
    tls_scheme = "socks5+tls"
    title = "a SOCKS5 proxy"
    remote_dns = False
    has_methods = True

    def check_proxy(self, proxy: Proxy) -> None:
        """Check the length of the credentials, and the codes of the methods."""
        if proxy.username is not None:
            encode_credential("proxy username", proxy.username)
            encode_credential("proxy password", proxy.password or "")
        codes = [method.code for method in proxy.methods]
        if len(set(codes)) < len(codes):
            raise ValueError("proxy methods must have different codes")
        if USERNAME_PASSWORD.code in codes and proxy.username is None:
            raise ValueError("proxy methods have username/password (02), but there is no username")

    def handshake(
        self,
        proxy: Proxy,
        command: Command,
        host: Host,
        port: int,
        begin_phase: Callable[[Phase], None],
    ) -> Flow[HostPort]:
        """Select a method, run its sub-negotiation, send the request, and read its reply."""
        begin_phase("method selection")
        method = yield from select_method(_methods(proxy))
        if method is not NO_AUTHENTICATION:
            begin_phase("authentication")
        try:
            protection = yield from method.negotiate(proxy)
        except ConnectionEnded as ended:
            # A method of the user's own does not have to know of this.
            raise ProxyClosed.within_method(ended, method.code) from ended.__cause__
        if protection is not None:
            raise NotImplementedError(
                f"method {method.code:02X} protects everything after it, but socksclient cannot"
                " wrap a connection yet"
            )
        begin_phase("request")
        bound_address = yield from request(command, host, port)
        if command in (Command.RESOLVE, Command.RESOLVE_PTR):
            check_answer(command, bound_address[0])
        return bound_address

    def next_reply(self, command: Command) -> Flow[HostPort]:
        """Read the second reply to BIND."""
        return reply(command)


class Socks5h(Socks5):
    """A SOCKS5 proxy that resolves names."""

    scheme = "socks5h"
    tls_scheme = "socks5h+tls"
    remote_dns = True


def _methods(proxy: Proxy) -> Sequence[Method]:
    if proxy.methods:
        return proxy.methods
    if proxy.username is None:
        return (NO_AUTHENTICATION,)
    return (NO_AUTHENTICATION, USERNAME_PASSWORD)
