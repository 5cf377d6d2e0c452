"""The command ``socksclient``."""
