"""The web side's shared parts: who is calling, strict bodies, problems, server-sent events, health.

Called by ``protocols`` and ``console``, and put in order by ``app.py``; calls ``services``. Knows no dialect.
"""
