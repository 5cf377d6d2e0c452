"""What the blocking and the awaited code share: it decides, and never waits."""
