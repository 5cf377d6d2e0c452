"""HTTP's CONNECT (RFC 9110 §9.3.6) as a flow, in the words of h11, which httpcore brings."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import h11

from socksclient.exceptions import (
    AuthenticationError,
    HTTPReply,
    ProtocolError,
    host_port,
    reply_error,
)
from socksclient.flows import Exchange, Flow
from socksclient.wire import not_what_speaks

if TYPE_CHECKING:
    from socksclient.proxy import Proxy

__all__ = ["MAX_HEAD_SIZE", "http_connect"]

MAX_HEAD_SIZE = 64 * 1024
"""Octets that the head of an answer may have, with all 1xx before it."""

_SHOWN = 256

_LEAST = len(b"HTTP/1.1 200\n\n")


def http_connect(proxy: Proxy, host: str, port: int) -> Flow[tuple[str, int]]:
    """Has the proxy connect to host and port; returns the unspecified address: HTTP tells none.

    What the destination says first may come right behind the head, and nothing says beforehand
    how long the head is. So it is read in pieces which cannot reach beyond its end.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_SIZE)
    hint = ", as servers do that do not speak HTTP, or only with TLS"
    step = Exchange(_request(connection, proxy, host_port(host, port)), _LEAST, 2, hint=hint)
    head = b""
    size = 0
    while True:
        octets = yield step
        head += octets
        size += len(octets)
        if not b"HTTP/".startswith(head[:5]):
            raise ProtocolError(not_what_speaks(head, "an HTTP proxy", "HTTP"), head)
        if size > MAX_HEAD_SIZE:
            text = f"the head of the proxy's answer has more than {MAX_HEAD_SIZE} octets"
            raise ProtocolError(text, head[:_SHOWN])
        try:
            connection.receive_data(octets)
            answer = connection.next_event()
        except h11.RemoteProtocolError as error:
            text = f"the proxy does not speak HTTP as it should: {str(error)[:_SHOWN]}"
            raise ProtocolError(text, head[:_SHOWN]) from error
        if isinstance(answer, h11.InformationalResponse):
            head = b""
        elif isinstance(answer, h11.Response):
            _check(answer, proxy)
            return "0.0.0.0", 0
        step = Exchange(b"", _missing(head), 1, head)


def _request(connection: h11.Connection, proxy: Proxy, target: str) -> bytes:
    headers = [("Host", target)]
    if proxy.username is not None:
        credentials = base64.b64encode(f"{proxy.username}:{proxy.password}".encode())
        headers.append(("Proxy-Authorization", f"Basic {credentials.decode()}"))
    octets = connection.send(h11.Request(method="CONNECT", target=target, headers=headers))
    assert octets is not None  # so it would be of a connection that is closed
    return octets


def _missing(head: bytes) -> int:
    """How many octets will come at least, until an empty line ends the head.

    h11 takes a bare LF as the end of a line as well (RFC 9112 §2.2).
    """
    if len(head) < _LEAST:
        return _LEAST - len(head)
    return 1 if head.endswith((b"\n", b"\n\r")) else 2


def _check(answer: h11.Response, proxy: Proxy) -> None:
    """Raises unless the status is one of success (RFC 9110 §9.3.6: any 2xx)."""
    status = answer.status_code
    if status in (401, 407):  # tinyproxy says 401 to credentials that are wrong
        if proxy.username is None:
            raise AuthenticationError(
                f"the proxy wants authentication, and there is no username (HTTP {status})"
            )
        raise AuthenticationError(f"the proxy refused the credentials (HTTP {status})")
    if not 200 <= status < 300:
        raise reply_error(HTTPReply(status))
