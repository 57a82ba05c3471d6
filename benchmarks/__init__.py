"""What serving an agent costs, as ratios to the same graph in-process, measured in one run. They are no tests.

``python -m benchmarks`` prints one table; ``python -m benchmarks.soak`` is the long one. This process only sends load:
the server and the in-process baseline are processes of their own and share one core, never at the same time.
"""
