"""The code that both runtimes share. It decides, and never waits."""
