"""Roadworthy: serve any LangGraph agent over HTTP, durably.

Importing the package makes checkpoint deserialisation strict for the whole process: LangGraph reads
``LANGGRAPH_STRICT_MSGPACK`` once, when it is first imported, so the variable must be there before that.
Agents need nothing of it but, if they like, ``effect``, which declares what it means when a tool runs twice.
"""

import os
from importlib.metadata import PackageNotFoundError, version

from roadworthy.domain.tool_effect import effect

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"

try:
    __version__ = version("roadworthy")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__", "effect"]
