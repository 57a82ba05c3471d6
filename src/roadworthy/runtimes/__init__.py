"""Adapters of ``ports/runtime.py``: ``langgraph`` runs real graphs, ``scripted`` plays written scripts without one.

Built by ``bootstrap``; called by ``engine`` (executions) and ``services`` (threads, input checks).
"""
