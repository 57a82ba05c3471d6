"""Execution of runs: claims, attempts, deadlines, cancellation, recovery.

Called by ``bootstrap`` and, through ``ports/dispatch.py``, by services; calls ports and domain only.
"""
