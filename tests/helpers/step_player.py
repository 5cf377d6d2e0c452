"""Drives the generators of `socksclient.protocol.tunnel` with a table of answers: no socket."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple, TypeAlias

from socksclient import Proxy
from socksclient.exceptions import SocksError
from socksclient.protocol.address import HostPort, SocketAddress, host_port
from socksclient.protocol.codes import Command
from socksclient.protocol.flow import ConnectionEnded, Exchange
from socksclient.protocol.proxy import as_chain
from socksclient.protocol.route import Route
from socksclient.protocol.steps import Connect, Resolve, ServerAddress, StartTLS, Step, Steps

Answer: TypeAlias = list[SocketAddress] | ServerAddress | bytes | BaseException | None
"""An answer to a step: what a driver sends into the generator, or throws into it.

Octets are what the proxy sends in answer to one message. If they are fewer than the step needs, the
proxy has hung up.
"""

# Most tests have the nearest hop as an address, so that no step resolves its name.
HOP = "socks5h://192.0.2.9"
SERVER = ("192.0.2.9", 1080)
RESOLVER = "socks5://192.0.2.9"
"""The same proxy; this process resolves its targets."""

GREETING = "050100"
OPEN = b"\x05\x00"
GRANTED = bytes.fromhex("05000001c00002071f90")
BOUND = ("192.0.2.7", 8080)
"""The bound address in `GRANTED`."""

G_TEST = "0306" + b"g.test".hex() + "0050"
"""The address g.test:80 in a request of SOCKS5."""

THREE: list[SocketAddress] = [("192.0.2.1", 80), ("2001:db8::2", 80, 0, 0), ("192.0.2.3", 80)]
"""The addresses of a name."""

NOT_FOUND = socket.gaierror(socket.EAI_NONAME, "not known")
DEADLINE = TimeoutError()


class Driven(NamedTuple):
    """How a generator has gone.

    Attributes:
        ends: The result or the error.
        asked: What the generator asked for, step by step, in words; octets to send are in hex.
    """

    ends: Any
    asked: list[str]


def drive(steps: Steps[Any], *answers: Answer) -> Driven:
    """Carry out the steps of a generator with the answers, which must be as many as are needed."""
    ahead = list(answers)
    asked: list[str] = []
    # What the proxy has sent and the generator has not read.
    left = b""
    answer: Answer = None
    while True:
        try:
            step = _give(steps, answer)
        except StopIteration as stop:
            ends = stop.value
            break
        except Exception as error:  # noqa: BLE001 - tests look at it
            ends = error
            break
        answer = left
        if not isinstance(step, Exchange) or step.send:
            # The octets behind a refusal go with their connection.
            assert left == b"" or isinstance(step, Connect), f"{left!r} has not been read"
            asked.append(in_words(step))
            assert ahead, f"there is no answer to {asked[-1]}"
            answer, left = ahead.pop(0), b""
        if isinstance(step, Exchange) and isinstance(answer, bytes):
            answer, left = answer[: step.read], answer[step.read :]
            if len(answer) < (step.enough or step.read):
                answer = ConnectionEnded(answer)
    assert ahead == [], f"these answers have no step: {ahead}"
    return Driven(ends, asked)


def _give(steps: Steps[Any], answer: Answer) -> Step:
    return steps.throw(answer) if isinstance(answer, BaseException) else steps.send(answer)


def in_words(step: Step) -> str:
    """Return what a step asks for."""
    if isinstance(step, Resolve):
        return f"resolve {step.host} {step.port}"
    if isinstance(step, Connect):
        return "connect " + " or ".join(map(_server, step.addresses))
    if isinstance(step, StartTLS):
        return f"tls with {step.proxy.host}"
    return step.send.hex()


def _server(address: ServerAddress) -> str:
    return address if isinstance(address, str) else host_port(*_pair(address))


def _pair(address: SocketAddress) -> HostPort:
    return address[0], address[1]


def request(address: str, command: Command = Command.CONNECT) -> str:
    """Return a request of SOCKS5 in hex; the address is in hex too."""
    return bytes([5, command, 0]).hex() + address


def refusal(rep: int) -> bytes:
    """Return a reply of SOCKS5 that refuses a request."""
    return bytes([5, rep, 0, 1, 0, 0, 0, 0, 0, 0])


def route(
    *proxies: str | Proxy,
    host: str = "g.test",
    port: int = 80,
    command: Command = Command.CONNECT,
) -> Route:
    """Return the route through proxies, the nearest first, to g.test:80."""
    return Route.through(as_chain(proxies), host, port, command)


def error_of(driven: Driven, kind: type[SocksError]) -> SocksError:
    """Return the error that has ended a generator, which must be of that very class."""
    assert type(driven.ends) is kind, driven
    error: SocksError = driven.ends
    return error
