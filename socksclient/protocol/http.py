"""HTTP's CONNECT (RFC 9110 §9.3.6): its messages, its flow, and the kind of hop.

The status line alone decides what the proxy's reply means. The header fields of a success are
ignored, as RFC 9110 §9.3.6 asks, and an ill-formed field does not hide the status of a refusal.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from functools import partial

from socksclient.protocol.address import Host, HostPort, host_port
from socksclient.protocol.codes import Command, HTTPReply, Phase
from socksclient.protocol.exceptions import (
    AuthenticationError,
    ProtocolError,
    ProxyClosed,
    SocksError,
    not_what_speaks,
    reply_error,
)
from socksclient.protocol.fields import encode_credential
from socksclient.protocol.flow import ConnectionEnded, Exchange, Flow, HiddenOctets
from socksclient.protocol.proxy import Kind, Proxy

__all__ = ["HTTP", "MAX_HEAD_SIZE"]

MAX_HEAD_SIZE = 64 * 1024
"""The most octets that the head of a reply may have, with all 1xx heads before it."""

_SHOWN = 256

_LONG = 8
"""The least length, in octets, of a secret that does not occur within other words by chance."""

_SHORTEST_HEAD = len(b"HTTP/1.1 200\n\n")

# An empty line ends the head, and a bare LF ends a line as well (RFC 9112 §2.2).
_ENDS = (b"\n\n", b"\n\r\n")

# curl accepts any white space between the parts, and some proxies send two spaces. A NUL is
# refused, because it would end the text for a program in C. Each run of white space can match in
# one way only: otherwise the time to refuse a long run would grow with the third power of its
# length.
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9][ \t]+([1-9][0-9]{2})(?:[ \t]([^\0]*))?")

# A challenge begins with a scheme. A space follows the scheme, or the challenge ends there. A
# parameter has a "=".
_CHALLENGE = re.compile(r"\s*([!#$%&'*+.^`|~\w-]+)(?:\s+(?![\s=])|\s*$)", re.ASCII)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"?')

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_A_VALUE = re.compile(r"[^\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_OF_CONNECT = ("host", "content-length", "transfer-encoding", "upgrade")
_AUTHORIZATION = "proxy-authorization"

_HINT = (
    "; perhaps the proxy cannot connect to the destination, does not speak HTTP, or speaks HTTP"
    " over TLS only"
)


class HTTP(Kind):
    """An HTTP proxy, which is asked to CONNECT, and resolves names."""

    scheme = "http"
    tls_scheme = "https"
    title = "an HTTP proxy"
    remote_dns = True
    default_ports = (80, 443)
    has_headers = True
    has_path = False
    commands = frozenset((Command.CONNECT,))

    def check_proxy(self, proxy: Proxy) -> None:
        """Check that HTTP can carry the headers, and the credentials (RFC 7617 §2)."""
        for header in proxy.headers:
            _check_header(*header)
        if proxy.username is None:
            return
        password = proxy.password or ""
        encode_credential("proxy username", proxy.username, limit=None)
        encode_credential("proxy password", password, limit=None)
        if ":" in proxy.username:
            raise ValueError("proxy username has a colon in it, which HTTP cannot carry")
        if _CONTROLS.search(proxy.username + password):
            raise ValueError("proxy credentials have a control character in them")
        if _has_authorization(proxy):
            raise ValueError(
                "proxy headers have a Proxy-Authorization, and there is a username; give only one"
                " of the two"
            )

    def handshake(
        self,
        proxy: Proxy,
        command: Command,  # noqa: ARG002 - it is CONNECT
        host: Host,
        port: int,
        begin_phase: Callable[[Phase], None],
    ) -> Flow[HostPort]:
        """Ask the proxy to connect to a host and a port.

        The destination's first octets may follow the head at once, and nothing says beforehand how
        long the head is. So each read asks for no more than what must come, and a driver that can
        peek at what has arrived takes the head in larger pieces (`Exchange.belonging`).

        Returns:
            The unspecified address, because HTTP names no bound address.

        Raises:
            AuthenticationError: The status is 407 or 401.
            ReplyError: The status is another one that is not a success.
            ProtocolError: The reply is no HTTP, or its head has more than `MAX_HEAD_SIZE` octets.
        """
        begin_phase("request")
        head = HiddenOctets()
        # The octets of the 1xx heads that came before this head.
        earlier = 0
        # Two octets tell HTTP from other protocols. The request has no variable of its own, because
        # a traceback can show variables.
        step = Exchange(
            _request(proxy, host_port(host.text, port)),
            _SHORTEST_HEAD,
            enough=2,
            belonging=partial(_head_size, b""),
            is_secret=proxy.username is not None or proxy.headers != (),
        )
        while True:
            try:
                head += yield step
            except ConnectionEnded as ended:
                hint = "" if earlier else _HINT
                raise ProxyClosed.within(ended, step.read, bytes(head), hint) from ended.__cause__
            outcome = _outcome(head, earlier + len(head), proxy)
            if isinstance(outcome, SocksError):
                # The proxy may have repeated the credentials, and a traceback can show variables.
                head.clear()
                try:
                    raise outcome
                finally:
                    # Otherwise the error and this frame would hold each other.
                    del outcome
            if outcome is not None:
                if outcome >= 200:
                    return "0.0.0.0", 0
                earlier += len(head)
                head = HiddenOctets()
            belonging = partial(_head_size, head)
            step = Exchange(b"", _missing(head), 1, belonging, step.is_secret)


def _check_header(name: str, value: str) -> None:
    """Check a field that HTTP is to carry (RFC 9110 §5.1, §5.5)."""
    if not _TOKEN.fullmatch(name):
        # The text does not repeat the name: it may be a whole line, with the value in it.
        raise ValueError(
            "proxy headers have a name that is empty or has characters other than letters, digits"
            " and !#$%&'*+-.^_`|~"
        )
    if name.lower() in _OF_CONNECT:
        raise ValueError(f"proxy headers have {name}, which would break the CONNECT; remove it")
    if _NOT_IN_A_VALUE.search(value):
        raise ValueError(
            f"proxy headers have a line end, another control character or half a surrogate pair in"
            f" the value of {name}"
        )
    if value != value.strip(" \t"):
        raise ValueError(f"proxy headers have white space around the value of {name}; remove it")


def _has_authorization(proxy: Proxy) -> bool:
    return any(name.lower() == _AUTHORIZATION for name, _ in proxy.headers)


def _request(proxy: Proxy, target: str) -> bytes:
    # The fields have the same order as in curl.
    fields = [("Host", target), *_authorization(proxy)]
    # RFC 9110 §10.1.5: a client should send one. Some proxies turn others away.
    if all(name.lower() != "user-agent" for name, _ in proxy.headers):
        fields.append(("User-Agent", "socksclient"))
    head = "".join(f"{name}: {value}\r\n" for name, value in (*fields, *proxy.headers))
    return f"CONNECT {target} HTTP/1.1\r\n{head}\r\n".encode()


def _authorization(proxy: Proxy) -> list[tuple[str, str]]:
    """Return the field with the credentials, if there are any (RFC 7617 §2)."""
    if proxy.username is None:
        return []
    # Not by an f-string: a subclass of str, such as an enum, may format itself as another text.
    credentials = base64.b64encode((proxy.username + ":" + (proxy.password or "")).encode())
    return [("Proxy-Authorization", f"Basic {credentials.decode()}")]


def _missing(head: bytearray) -> int:
    """Return how many octets must come at least until an empty line ends the head."""
    if len(head) < _SHORTEST_HEAD:
        return _SHORTEST_HEAD - len(head)
    return 1 if head.endswith((b"\n", b"\n\r")) else 2


def _head_size(head: bytes | bytearray, octets: bytes) -> int:
    """Return how many of `octets`, which follow `head`, belong to the same head."""
    if not b"HTTP/".startswith(head[:5] or octets[:5]):
        return 0
    begin = bytes(head[-2:])
    text = begin + octets
    ends = [text.find(end) + len(end) for end in _ENDS if end in text]
    return min(ends, default=len(text)) - len(begin)


def _outcome(head: bytearray, size: int, proxy: Proxy) -> int | SocksError | None:
    """Return the outcome of a reply: a status, an error, or None while its head is incomplete.

    This returns an error instead of raising it, because its variables may hold credentials that the
    proxy has repeated, and a traceback can show variables.

    Args:
        head: The part of the head that has arrived.
        size: The octets of `head` and of all heads before it.
        proxy: The proxy that has replied.

    Returns:
        The status, if it is a success (2xx) or if another head follows (1xx); an error for every
        other reply; or None if the head is not whole yet.
    """
    if not b"HTTP/".startswith(head[:5]):
        received = bytes(head)
        return ProtocolError(not_what_speaks(received, "an HTTP proxy", "HTTP"), received)
    if size > MAX_HEAD_SIZE:
        text = f"the head of the proxy's reply has more than {MAX_HEAD_SIZE} octets"
        return ProtocolError(text, bytes(head[:_SHOWN]))
    if not head.endswith(_ENDS):
        return None
    first, *lines = re.split(rb"\r?\n", head.rstrip(b"\r\n"))
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        # RFC 9112 §4
        line = _shown(first.decode("latin-1"), proxy)
        text = f"the status line of the proxy's reply is not valid: {line!r}"
        return ProtocolError(text, bytes(head[:_SHOWN]))
    status = int(found[1])
    # Every 2xx is a success (RFC 9110 §9.3.6). After 101 the connection would speak another
    # protocol, for which nobody has asked.
    if status < 300 and status != 101:
        return status
    # More than a hundred fields would say no more about the refusal.
    texts = [octets.decode("latin-1").strip() for octets in (found[2] or b"", *lines[:100])]
    return _refusal(status, texts[0], texts[1:], proxy)


def _shown(text: str, proxy: Proxy) -> str:
    """Return the words of a proxy, cut, with everything but printable ASCII escaped.

    A proxy may repeat the credentials in its words. They are replaced by ``***``.
    """
    # For many proxies, the user name is a token.
    secrets = {proxy.username or "", proxy.password or ""}
    for _, value in (*_authorization(proxy), *proxy.headers):
        # The credentials follow a scheme, which is no secret.
        secrets |= {value, value.partition(" ")[2]}
    octets = text.encode("latin-1")
    # The longest secret comes first, because it may contain another one.
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        hidden = secret.encode()
        if len(hidden) >= _LONG:
            octets = octets.replace(hidden, b"***")
        else:
            # A short secret occurs within words by chance, and "B***d G***tew***y" would give it
            # away.
            octets = re.sub(rb"(?<!\w)%b(?!\w)" % re.escape(hidden), b"***", octets)
    return octets[:_SHOWN].decode("latin-1").encode("unicode_escape").decode()[:_SHOWN]


def _refusal(status: int, reason: str, lines: list[str], proxy: Proxy) -> SocksError:
    """Return the error for a status that is no success."""
    fields = [
        (name.strip().lower(), value.strip())
        for name, colon, value in (line.partition(":") for line in lines)
        if colon
    ]
    # tinyproxy answers wrong credentials with 401 and Proxy-Authenticate. tiny-proxy says 401 to
    # missing ones too, and names no scheme.
    if status in (401, 407):
        schemes = tuple(_shown(scheme, proxy) for scheme in _schemes(fields))
        return _not_authenticated(status, proxy, schemes)
    shown = tuple((_shown(name, proxy), _shown(value, proxy)) for name, value in fields)
    return reply_error(HTTPReply(status), reason=_shown(reason, proxy), fields=shown)


def _schemes(fields: list[tuple[str, str]]) -> Iterable[str]:
    """Return the schemes of all challenges, each once (RFC 9110 §11.3, §11.7.1)."""
    challenges = [
        challenge
        for name, value in fields
        if name in ("proxy-authenticate", "www-authenticate")
        for challenge in _QUOTED.sub('""', value).split(",")
    ]
    found = [match[1] for challenge in challenges if (match := _CHALLENGE.match(challenge))]
    return dict.fromkeys(found)


def _not_authenticated(status: int, proxy: Proxy, schemes: tuple[str, ...]) -> AuthenticationError:
    has_basic = "basic" in (scheme.lower() for scheme in schemes)
    if _has_authorization(proxy):
        text = "the proxy refused the Proxy-Authorization of Proxy(headers=...)"
    elif schemes and not has_basic:
        offered = " or ".join(schemes)
        text = f"the proxy wants authentication by {offered}, but socksclient speaks only Basic"
    elif proxy.username is None:
        text = "the proxy wants authentication, but no username is given"
    elif has_basic:
        text = "the proxy refused the credentials"
    else:
        text = "the proxy does not accept the credentials, and does not say which scheme it wants"
    return AuthenticationError(f"{text} (HTTP {status})", schemes=schemes)
