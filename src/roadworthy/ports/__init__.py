"""The edges of the core as protocols: what services and engine need from storage, runtime and time.

Implemented by ``storage``, ``runtimes`` and ``telemetry``; called by ``services`` and ``engine``; calls ``domain``.
"""
