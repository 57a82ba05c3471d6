"""What the operator sees: log records, and the clock that stamps them.

Set up by ``bootstrap`` and ``cli``; implements ``ports.telemetry`` and ``ports.clock``; calls ``domain`` and structlog.
"""
