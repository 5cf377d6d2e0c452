"""The protocols that a `SocksServer` speaks: SOCKS5, SOCKS4 with 4A, and CONNECT of HTTP."""

from __future__ import annotations

import base64
import ipaddress
from abc import ABC, abstractmethod
from http.client import responses
from typing import TYPE_CHECKING, ClassVar, Literal

from socksclient.protocol.address import AddressType, Host, HostPort, encode_address
from socksclient.protocol.codes import Command, Reply, Socks4Reply
from socksclient.testing.conversation import Conversation, Over, as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSPECIFIED = ("0.0.0.0", 0)
"""The bound address of a reply that has nothing to tell."""


class ProxyProtocol(ABC):
    """One protocol, spoken with one client: it reads the request and encodes the replies.

    Attributes:
        name: As `Connection.protocol` has it.
        commands: The commands that this protocol has and the server serves.
    """

    name: ClassVar[Literal["SOCKS5", "SOCKS4", "HTTP"]]
    commands: ClassVar[tuple[Command, ...]]

    def __init__(self, conversation: Conversation, accounts: Mapping[str, str]) -> None:
        self.conversation = conversation
        self.seen = conversation.seen
        self.accounts = accounts

    @abstractmethod
    async def read_request(self) -> HostPort:
        """Read all of the client's messages up to the request, and return its target.

        The first octet has been read already.

        Raises:
            Over: The server refuses the client. The client has been told.
        """

    @abstractmethod
    def code(self, reply: Reply) -> int:
        """Return this protocol's code for a reply of SOCKS5."""

    @abstractmethod
    def encode_reply(self, code: int, bound_address: HostPort) -> bytes:
        """Return the octets of a reply."""

    async def reply(self, code: int, bound_address: HostPort, data: bytes = b"") -> None:
        """Answer the request; `data` are octets of the destination."""
        self.seen.reply = code
        bound_address = self.conversation.faults.bound_address or bound_address
        await self.conversation.send("request", self.encode_reply(code, bound_address), data)


class Socks5(ProxyProtocol):
    """RFC 1928, with usernames and passwords (RFC 1929) and Tor's two commands."""

    name = "SOCKS5"
    commands = tuple(Command)

    async def read_request(self) -> HostPort:
        """Select a method, authenticate the client and read the request."""
        read = self.conversation.read
        await self._authenticate(await self._select_method())
        _, self.seen.command, _, self.seen.address_type = await read(4)
        host = await self._read_host(self.seen.address_type)
        return host, int.from_bytes(await read(2), "big")

    async def _select_method(self) -> int:
        [count] = await self.conversation.read(1)
        self.seen.methods = methods = await self.conversation.read(count)
        method = 0x02 if self.accounts else 0x00
        if self.conversation.faults.method is not None:
            method = self.conversation.faults.method
        elif method not in methods:
            method = 0xFF
        await self.conversation.send("method selection", bytes([0x05, method]))
        if method == 0xFF:
            raise Over
        return method

    async def _authenticate(self, method: int) -> None:
        if method == 0x02:
            await self._check_password()
        elif method != 0x00:
            # The server knows no other sub-negotiation. One message from the client is enough
            # for the methods of the tests, and `Faults.answers` has the answer.
            await self.conversation.read_message()
            await self.conversation.send("authentication", b"")

    async def _check_password(self) -> None:
        read = self.conversation.read
        _, size = await read(2)
        username = self.seen.username = as_text(await read(size))
        [size] = await read(1)
        password = self.seen.password = as_text(await read(size))
        status = 0x00 if self.accounts.get(username) == password else 0x01
        if self.conversation.faults.status is not None:
            status = self.conversation.faults.status
        await self.conversation.send("authentication", bytes([0x01, status]))
        if status != 0x00:
            raise Over

    async def _read_host(self, address_type: int) -> str:
        read = self.conversation.read
        if address_type == AddressType.IPV4:
            return str(ipaddress.IPv4Address(await read(4)))
        if address_type == AddressType.IPV6:
            return str(ipaddress.IPv6Address(await read(16)))
        [size] = await read(1)
        return as_text(await read(size))

    def code(self, reply: Reply) -> int:
        """Return the reply's REP."""
        return int(reply)

    def encode_reply(self, code: int, bound_address: HostPort) -> bytes:
        """Return the octets of a reply (RFC 1928 §6)."""
        host, port = bound_address
        return bytes([0x05, code, 0x00]) + encode_address(Host.of(host), port)


class Socks4(ProxyProtocol):
    """SOCKS4 and SOCKS4A, with Tor's RESOLVE."""

    name = "SOCKS4"
    commands = (Command.CONNECT, Command.BIND, Command.RESOLVE)

    async def read_request(self) -> HostPort:
        """Read the request, and check its user id."""
        read = self.conversation.read
        [self.seen.command] = await read(1)
        port = int.from_bytes(await read(2), "big")
        host = str(ipaddress.IPv4Address(await read(4)))
        self.seen.username = await self.conversation.read_until(b"\0")
        # SOCKS4A: an address 0.0.0.x, with x not 0, says that a name follows.
        if host.startswith("0.0.0.") and host != "0.0.0.0":
            host = await self.conversation.read_until(b"\0")
        self.seen.destination = (host, port)
        if self.accounts and self.seen.username not in self.accounts:
            await self.reply(Socks4Reply.IDENTD_REPORTS_ANOTHER_USER, UNSPECIFIED)
            raise Over
        return host, port

    def code(self, reply: Reply) -> int:
        """Return CD: SOCKS4 has one code for every failure that is not the user id's."""
        return Socks4Reply.REJECTED_OR_FAILED if reply else Socks4Reply.GRANTED

    def encode_reply(self, code: int, bound_address: HostPort) -> bytes:
        """Return the octets of a reply; an IPv6 address, which SOCKS4 lacks, becomes 0.0.0.0."""
        host, port = bound_address
        ip = ipaddress.IPv4Address(host if ":" not in host else 0)
        return bytes([0x00, code]) + port.to_bytes(2, "big") + ip.packed


class HTTP(ProxyProtocol):
    """CONNECT of HTTP/1.1, with Basic authentication."""

    name = "HTTP"
    commands = (Command.CONNECT,)

    async def read_request(self) -> HostPort:
        """Read the head of the request, and check its credentials."""
        line, *fields = (await self.conversation.read_until(b"\r\n\r\n")).split("\r\n")
        method, target, _ = line.split(" ")
        # The session has read the first letter of the method, to know that HTTP is spoken.
        if self.seen.received[:1].decode() + method != "CONNECT":
            await self.reply(405, UNSPECIFIED)
            raise Over
        self.seen.command = Command.CONNECT
        for field in fields:
            name, _, value = field.partition(": ")
            # Credentials of another scheme, such as a bearer token, belong to no account.
            if name.lower() == "proxy-authorization" and value.startswith("Basic "):
                credentials = base64.b64decode(value.removeprefix("Basic ")).decode()
                self.seen.username, _, self.seen.password = credentials.partition(":")
        host, _, port = target.rpartition(":")
        self.seen.destination = (host.strip("[]"), int(port))
        username, password = self.seen.username, self.seen.password
        if self.accounts and (username is None or self.accounts.get(username) != password):
            await self.reply(407, UNSPECIFIED)
            raise Over
        return self.seen.destination

    def code(self, reply: Reply) -> int:
        """Return the status: 200, or 502 for every failure."""
        return 502 if reply else 200

    def encode_reply(self, code: int, bound_address: HostPort) -> bytes:  # noqa: ARG002
        """Return the head of a response, which bears no bound address."""
        fields = "Via: SocksServer\r\n"
        if code in (401, 407):
            fields += 'Proxy-Authenticate: Basic realm="SocksServer"\r\n'
        return f"HTTP/1.1 {code} {responses.get(code, '')}\r\n{fields}\r\n".encode()
