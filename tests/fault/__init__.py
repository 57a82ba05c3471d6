"""Promises under failure: real processes, real signals, the real client against the fake provider."""
