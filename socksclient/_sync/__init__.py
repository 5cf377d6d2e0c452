"""The blocking runtime."""
