"""The awaited runtime, on asyncio and trio: the twin of `socksclient._sync`."""
