"""A real HTTP server on loopback: hypercorn in a thread of its own, with and without TLS.

It serves:
    /                   the request as JSON: the HTTP version, the headers, the client's address
    /echo               the body of the request
    /dns-query          an answer without addresses to a query by DNS over HTTPS (RFC 8484)
    /download?octets=n  n octets, always the same ones: see `content`
    /upload             SHA-256 and length of the body of the request, as JSON
    /redirect?to=url    a redirection
    /cookie/set         a cookie; /cookie/show sends back those that came
    /alt-svc            claims that this server speaks HTTP/3 too (RFC 7838), which is not true
    /break              promises more octets than it sends, and hangs up
    /stall              promises more octets than it sends, and waits until the client goes away
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import ssl
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import dns.message
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

    Handler = Callable[[HTTPScope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]]

NAMES = ("origin.test", "example.com", "localhost", "127.0.0.1")
"""The names in the certificate."""

BEGINNING = b"the beginning"
"""The part of the promised body that /break and /stall send."""

_BLOCK = random.Random(0).randbytes(256 * 1024)


def content(octets: int) -> Iterator[bytes]:
    """Yield the body of /download, in pieces."""
    for start in range(0, octets, len(_BLOCK)):
        yield _BLOCK[: octets - start]


def digest(octets: int) -> str:
    """Return the SHA-256 of the body of /download."""
    return digest_of(content(octets))


def digest_of(pieces: Iterable[bytes]) -> str:
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
    return sha256.hexdigest()


class Origin:
    """The server, as a context manager.

    Attributes:
        http_port: The port of HTTP, on 127.0.0.1.
        https_port: The port of HTTPS.
        ca: The authority that has issued its certificate.
    """

    def __init__(self, *, client_certificate_wanted: bool = False) -> None:
        self.http_port = 0
        self.https_port = 0
        self.ca = trustme.CA()
        self._client_certificate_wanted = client_certificate_wanted
        self._exit = ExitStack()

    def trust(self) -> ssl.SSLContext:
        """Return a new context for clients, which trusts this server and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context

    def __enter__(self) -> Origin:
        certificate = self.ca.issue_cert(*NAMES)
        config = Config()
        config.errorlog = None
        config.certfile = config.keyfile = self._exit.enter_context(
            certificate.private_key_and_cert_chain_pem.tempfile()
        )
        if self._client_certificate_wanted:
            config.verify_mode = ssl.CERT_REQUIRED
            config.ca_certs = self._exit.enter_context(self.ca.cert_pem.tempfile())
        # Both listen before the thread runs, so that nobody has to wait for it.
        insecure, secure = (socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2))
        self.http_port = insecure.getsockname()[1]
        self.https_port = secure.getsockname()[1]
        config.insecure_bind = f"fd://{insecure.detach()}"
        config.bind = f"fd://{secure.detach()}"
        started = threading.Event()
        thread = threading.Thread(
            target=asyncio.run, args=(self._serve(config, started),), name="Origin", daemon=True
        )
        self._exit.callback(thread.join)
        thread.start()
        started.wait()
        self._exit.callback(lambda: self._loop.call_soon_threadsafe(self._stop.set))
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._exit.close()

    async def _serve(self, config: Config, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set()
        await serve(_app, config, shutdown_trigger=self._stop.wait)


async def _app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    if scope["type"] == "http":
        await _HANDLERS[scope["path"]](scope, receive, send)
    elif scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})


async def _show(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    await _respond_json(
        send,
        {
            "http_version": scope["http_version"],
            "headers": headers,
            "client": scope["client"],
            "scheme": scope["scheme"],
        },
    )


async def _echo(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await _respond(send, [piece async for piece in _body(receive)])


async def _answer_query(
    scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    query = dns.message.from_wire(b"".join([piece async for piece in _body(receive)]))
    answer = dns.message.make_response(query).to_wire()
    await _respond(send, [answer], [(b"content-type", b"application/dns-message")])


async def _download(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    octets = int(_query(scope, "octets"))
    await _respond(send, content(octets), [(b"content-length", str(octets).encode())])


async def _upload(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    sha256 = hashlib.sha256()
    octets = 0
    async for piece in _body(receive):
        sha256.update(piece)
        octets += len(piece)
    await _respond_json(send, {"sha256": sha256.hexdigest(), "octets": octets})


async def _redirect(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await _respond(send, [], [(b"location", _query(scope, "to").encode())], status=302)


async def _set_cookie(
    scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    await _respond(send, [], [(b"set-cookie", b"seen=yes; Path=/")])


async def _show_cookies(
    scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    await _respond(send, [value for name, value in scope["headers"] if name == b"cookie"])


async def _tell_alternative(
    scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    await _respond(send, [], [(b"alt-svc", b'h3=":443"; ma=86400')])


async def _break(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await _begin(send)


async def _stall(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await _begin(send)
    while (await receive())["type"] != "http.disconnect":
        pass


_HANDLERS: dict[str, Handler] = {
    "/": _show,
    "/echo": _echo,
    "/dns-query": _answer_query,
    "/download": _download,
    "/upload": _upload,
    "/redirect": _redirect,
    "/cookie/set": _set_cookie,
    "/cookie/show": _show_cookies,
    "/alt-svc": _tell_alternative,
    "/break": _break,
    "/stall": _stall,
}


def _query(scope: HTTPScope, name: str) -> str:
    return parse_qs(scope["query_string"].decode())[name][0]


async def _body(receive: ASGIReceiveCallable) -> AsyncIterator[bytes]:
    while (message := await receive())["type"] == "http.request":
        yield message["body"]
        if not message["more_body"]:
            break


async def _begin(send: ASGISendCallable) -> None:
    headers = [(b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BEGINNING, "more_body": True})


async def _respond_json(send: ASGISendCallable, value: object) -> None:
    await _respond(send, [json.dumps(value).encode()], [(b"content-type", b"application/json")])


async def _respond(
    send: ASGISendCallable,
    pieces: Iterable[bytes],
    headers: Iterable[tuple[bytes, bytes]] = (),
    status: int = 200,
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
