"""The protocols by themselves: no socket, no clock, no log."""
