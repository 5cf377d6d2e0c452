"""uvloop with Python's resolver in place of its own."""

from __future__ import annotations

import socket
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """An event loop of uvloop whose resolver tests can watch and replace."""

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as asyncio names it
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Pass arguments by position, as asyncio does: some replacements give them other names."""
        return await self.run_in_executor(
            None, socket.getaddrinfo, host, port, family, type, proto, flags
        )
