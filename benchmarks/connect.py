"""What one connection costs: CPU time of this process, blocking and on asyncio, beside the peers.

Run it as `python benchmarks/connect.py`, with PySocks and python-socks installed to have them
beside it. With `--beside CHECKOUT`, it runs the socksclient of another checkout beside this one, in
a process of its own, so that two versions can be compared. Every round measures each client once,
in turn: a machine that changes its speed changes it for all. The script prints the medians of the
rounds, and the median of the ratios within each round. Only the ratios mean anything. "raw" is a
handshake written out by hand with the fewest system calls.

The server is one process per run, on loopback, without authentication.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import socksclient
import socksclient.anyio
from socksclient.testing import SocksServer

ROUNDS, CONNECTIONS = 15, 100
Address = tuple[str, int]
Measure = Callable[[Address, Address], float]
Connect = Callable[[Address, Address], socket.socket]


def raw(proxy: Address, destination: Address) -> socket.socket:
    sock = socket.socket()
    sock.connect(proxy)
    sock.sendall(b"\x05\x01\x00")
    sock.recv(2)
    host, port = destination
    sock.sendall(b"\x05\x01\x00\x01" + socket.inet_aton(host) + port.to_bytes(2, "big"))
    sock.recv(4)
    sock.recv(6)
    return sock


def ours(proxy: Address, destination: Address) -> socket.socket:
    return socksclient.create_connection(destination, None, proxy=socksclient.Proxy(*proxy))


def blocking(connect: Connect) -> Measure:
    def measure(proxy: Address, destination: Address) -> float:
        begin = time.process_time()
        for _ in range(CONNECTIONS):
            connect(proxy, destination).close()
        return time.process_time() - begin

    return measure


def asynchronous(proxy: Address, destination: Address) -> float:
    async def main() -> float:
        begin = time.process_time()
        for _ in range(CONNECTIONS):
            sock = await socksclient.anyio.connect_socket(
                *destination, proxy=socksclient.Proxy(*proxy)
            )
            sock.close()
        return time.process_time() - begin

    return asyncio.run(main())


OURS: dict[str, Measure] = {"socksclient": blocking(ours), "socksclient, asyncio": asynchronous}


def clients() -> dict[str, Measure]:
    found = {"raw": blocking(raw), **OURS}
    try:
        import socks  # type: ignore[import-not-found,import-untyped,unused-ignore]

        def pysocks(proxy: Address, destination: Address) -> socket.socket:
            sock: socket.socket = socks.create_connection(
                destination, None, None, socks.SOCKS5, *proxy
            )
            return sock

        found["PySocks"] = blocking(pysocks)
    except ImportError:
        pass
    try:
        from python_socks import ProxyType  # type: ignore[import-not-found,unused-ignore]
        from python_socks.sync import Proxy  # type: ignore[import-not-found,unused-ignore]

        def python_socks(proxy: Address, destination: Address) -> socket.socket:
            sock: socket.socket = Proxy.create(ProxyType.SOCKS5, *proxy).connect(*destination)
            return sock

        found["python-socks"] = blocking(python_socks)
    except ImportError:
        pass
    return found


class Beside:
    """The socksclient of another checkout, in a process that measures when it is asked to."""

    def __init__(self, checkout: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--answer"],
            env={**os.environ, "PYTHONPATH": checkout},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, name: str) -> Measure:
        def ask(proxy: Address, destination: Address) -> float:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(json.dumps([name, proxy, destination]), file=self._process.stdin, flush=True)
            return float(self._process.stdout.readline())

        return ask


def answer() -> None:
    """Measure whatever each line of the standard input names."""
    for line in sys.stdin:
        name, proxy, destination = json.loads(line)
        print(OURS[name](tuple(proxy), tuple(destination)), flush=True)


def serve(pipe: Connection) -> None:
    with SocksServer() as server, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        pipe.send((server.address, listener.getsockname()))
        while True:  # until it is terminated
            listener.accept()[0].close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beside", metavar="CHECKOUT", help="another checkout of socksclient")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer()
        return
    ours_end, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    proxy, destination = ours_end.recv()
    measures = clients()
    reference = "raw"
    if arguments.beside:
        beside = Beside(arguments.beside)
        measures = {}
        for name, measure in OURS.items():
            measures[name] = measure
            measures[f"{name}, beside"] = beside.measure(name)
    costs: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(arguments.rounds):
        for name, measure in measures.items():
            costs[name].append(measure(proxy, destination))
    process.terminate()
    for name, each in costs.items():
        if arguments.beside:
            reference = f"{name.removesuffix(', beside')}, beside"
        pairs = zip(each, costs[reference], strict=True)
        ratio = statistics.median(cost / other for cost, other in pairs)
        microseconds = statistics.median(each) / CONNECTIONS * 1e6
        print(f"{name:28}  {microseconds:6.0f} µs  {ratio:.3f} × {reference}")


if __name__ == "__main__":
    main()
