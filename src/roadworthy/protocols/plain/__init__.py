"""Roadworthy's own API: ``/agent/…``, JSON in and out, server-sent events.

Mounted by ``app.py``; calls ``http`` and ``services``. The reference is ``docs/http-api.md``.
"""
