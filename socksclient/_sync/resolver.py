"""Blocking: resolve a name before a deadline."""

from __future__ import annotations

import queue
import threading

from socksclient._net.resolver import look_up
from socksclient._sync.timeouts import Deadline
from socksclient.protocol.address import SocketAddress
from socksclient.protocol.steps import Resolve

__all__ = ["addresses_of"]


def addresses_of(step: Resolve, deadline: Deadline) -> list[SocketAddress]:
    """Return the addresses of the name that a step asks for.

    Nothing can interrupt getaddrinfo. So if there is a deadline, getaddrinfo runs in a thread of
    its own, and this function leaves that thread to itself when the deadline passes. Where no
    thread can be started, getaddrinfo runs in the caller's thread, and may take longer than the
    deadline allows.

    Raises:
        OSError: The resolver has failed (`socksclient._net.resolver.look_up`).
        TimeoutError: The deadline has passed.
    """
    left = deadline.left()
    if left is None:
        return look_up(*step)
    answers: queue.SimpleQueue[list[SocketAddress] | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(look_up(*step))
        except BaseException as error:  # noqa: BLE001 - raised below
            answers.put(error)

    try:
        # A daemon thread does not keep the interpreter from ending.
        threading.Thread(target=ask, name=f"resolve {step.host}", daemon=True).start()
    except RuntimeError:
        # A container may limit threads; CPython 3.12 starts none in an atexit handler, and an
        # isolated subinterpreter starts no daemon thread.
        return look_up(*step)
    try:
        answer = answers.get(timeout=left)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, list):
        return answer
    try:
        raise answer
    finally:
        # Otherwise the error and this frame would keep each other alive.
        del answer
