#!/usr/bin/env bash
# Where no thread can be started, asyncio.run raises RuntimeError although its coroutine has returned.
#
# Seen on 2026-11-27 with CPython 3.10.13, 3.11.7, 3.12.1 and 3.13.0 on Linux. No package is needed.
#
# If a process has reached its limit of threads (a container's pids limit, RLIMIT_NPROC), a program may
# catch the RuntimeError of loop.getaddrinfo and do without the name. But by then loop.getaddrinfo has
# made the loop's default executor, and asyncio.run starts a thread to shut that down, even if the
# executor never had a thread. So asyncio.run raises the same RuntimeError again, and the result of the
# coroutine is lost. A program that must work without threads must not call loop.getaddrinfo at all.
#
# Output seen:
#   in the coroutine: can't start new thread
#   out of asyncio.run: can't start new thread
#
# Exit status: 0 if it is still the same, 1 if it has changed.
set -eu
code='
import asyncio, concurrent.futures.thread, os, resource

async def main():
    try:
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    except RuntimeError as error:
        print("in the coroutine:", error)
    return "result"

asyncio.run(asyncio.sleep(0))
# Everything has been imported by now: the user below may not be able to read the files of this Python.
if os.geteuid() == 0:
    # The limit does not bind root.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    print("returned:", asyncio.run(main()))
except RuntimeError as error:
    print("out of asyncio.run:", error)
'
said=$("${PYTHON:-python3}" -W ignore -c "$code")
printf '%s\n' "$said"
[ "$said" = "in the coroutine: can't start new thread
out of asyncio.run: can't start new thread" ]
