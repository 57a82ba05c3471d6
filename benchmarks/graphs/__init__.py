"""The graphs that are measured: served by the server, and built again in the baseline's process."""
