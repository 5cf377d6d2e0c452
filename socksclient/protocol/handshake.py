"""`start`, which begins a handshake with one proxy."""

from __future__ import annotations

from collections.abc import Callable

from socksclient.protocol.address import Host, HostPort, parse_port
from socksclient.protocol.codes import Command, Phase
from socksclient.protocol.flow import Flow
from socksclient.protocol.proxy import Proxy, as_chain

__all__ = ["start"]

_COMMANDS = {command.text.replace("_", " ").lower(): command for command in Command}


def start(
    proxy: str | Proxy,
    host: str,
    port: int,
    command: str | Command = "connect",
    *,
    begin_phase: Callable[[Phase], None] | None = None,
) -> Flow[HostPort]:
    """Return the flow of the whole handshake with one proxy.

    The flow runs on a connection to the proxy that is open already. If the proxy speaks TLS, the
    connection has TLS already. The flow returns the bound address (BND.ADDR and BND.PORT) as (host,
    port); for "resolve" and "resolve ptr", the host is the answer. HTTP names no bound address: it
    is ("0.0.0.0", 0).

    Args:
        proxy: The proxy's URL, or a `Proxy`.
        host: The host of the target: a name or an IP address, as the caller has it. With
            ``socks5://`` and ``socks4://`` it must be an IP address, except for "resolve".
        port: The port of the target: 1 to 65535 for "connect". For the other commands, 0 stands
            for "not known".
        command: "connect", "bind", "udp associate", "resolve" or "resolve ptr", or a `Command`.
        begin_phase: A function that is called with the name of each phase as it begins.

    Raises:
        ValueError: The proxy, the host, the port or the command is not valid, or the proxy's
            protocol cannot carry the request. Nothing has been sent.
        TypeError: The host is not a str, or the proxy is neither a URL nor a `Proxy`.
        SocksError: The flow raises it if the proxy refuses the request or the credentials, or sends
            what its protocol does not allow.
    """
    [hop] = as_chain(proxy)
    target = Host.parse(host)
    cmd = _parse_command(command)
    port = parse_port(port, least=1 if cmd == Command.CONNECT else 0)
    hop.kind.check_request(hop, cmd, target)
    if target.is_name and not hop.remote_dns and cmd != Command.RESOLVE:
        raise ValueError(
            f"{hop.scheme}:// means that the client resolves names, and a flow cannot resolve a"
            f" name; give an IP address of {target}, or use socks5h:// or socks4a://"
        )
    return hop.kind.handshake(hop, cmd, target, port, begin_phase or _ignore)


def _parse_command(command: str | Command) -> Command:
    if isinstance(command, Command):
        return command
    try:
        return _COMMANDS[command]
    except KeyError:
        names = ", ".join(map(repr, _COMMANDS))
        raise ValueError(f"command must be one of {names}, not {command!r}") from None


def _ignore(_phase: Phase) -> None:
    """Do nothing as a phase begins."""
