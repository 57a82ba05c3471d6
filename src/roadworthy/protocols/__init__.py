"""One folder per wire dialect: routes, wire models and an encoder of events. Siblings never import each other.

Mounted by ``app.py``; calls ``http`` for auth, bodies and streams, and ``services`` for everything that happens.
"""
