"""Use cases: what callers may ask of the server, in no dialect's words.

Called by ``protocols`` and ``cli``; calls ports and domain only.
"""
