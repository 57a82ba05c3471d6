"""Agents that the tests serve: loaded by server processes as any user's code would be."""
