"""Bearer tokens of an identity provider: its keys, and what a token says.

Implements ``ports/identity.py``; made by ``bootstrap``, asked by ``services/identity.py``.
"""
