"""What one blocking connection costs: CPU time of this process, beside the peers.

Run it as `python benchmarks/connect.py`, with PySocks and python-socks installed to have them
beside it. Every round measures each client once, in turn, so that a machine that changes its speed
changes it for all; the medians of the rounds are told, and their ratios. Only the ratios mean
anything. "raw" is a handshake written out by hand with the fewest system calls.

The server is one process per run, on loopback, without authentication.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import socksclient
from socksclient.testing import SocksServer

ROUNDS, CONNECTIONS = 15, 100
Connect = Callable[[tuple[str, int], tuple[str, int]], socket.socket]


def raw(proxy: tuple[str, int], destination: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.connect(proxy)
    sock.sendall(b"\x05\x01\x00")
    sock.recv(2)
    host, port = destination
    sock.sendall(b"\x05\x01\x00\x01" + socket.inet_aton(host) + port.to_bytes(2, "big"))
    sock.recv(4)
    sock.recv(6)
    return sock


def ours(proxy: tuple[str, int], destination: tuple[str, int]) -> socket.socket:
    return socksclient.create_connection(destination, None, proxy=socksclient.Proxy(*proxy))


def clients() -> dict[str, Connect]:
    found: dict[str, Connect] = {"raw": raw, "socksclient": ours}
    try:
        import socks  # type: ignore[import-not-found,import-untyped,unused-ignore]

        def pysocks(proxy: tuple[str, int], destination: tuple[str, int]) -> socket.socket:
            sock: socket.socket = socks.create_connection(
                destination, None, None, socks.SOCKS5, *proxy
            )
            return sock

        found["PySocks"] = pysocks
    except ImportError:
        pass
    try:
        from python_socks import ProxyType  # type: ignore[import-not-found,unused-ignore]
        from python_socks.sync import Proxy  # type: ignore[import-not-found,unused-ignore]

        def python_socks(proxy: tuple[str, int], destination: tuple[str, int]) -> socket.socket:
            sock: socket.socket = Proxy.create(ProxyType.SOCKS5, *proxy).connect(*destination)
            return sock

        found["python-socks"] = python_socks
    except ImportError:
        pass
    return found


def serve(pipe: Connection) -> None:
    with SocksServer() as server, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        pipe.send((server.address, listener.getsockname()))
        while True:  # until it is terminated
            listener.accept()[0].close()


def main() -> None:
    ours_end, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    proxy, destination = ours_end.recv()
    costs: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, connect in clients().items():
            begin = time.process_time()
            for _ in range(CONNECTIONS):
                connect(proxy, destination).close()
            costs.setdefault(name, []).append(time.process_time() - begin)
    process.terminate()
    medians = {name: statistics.median(each) for name, each in costs.items()}
    for name, median in medians.items():
        microseconds = median / CONNECTIONS * 1e6
        print(f"{name:12}  {microseconds:6.0f} µs  {median / medians['raw']:.2f} × raw")


if __name__ == "__main__":
    main()
