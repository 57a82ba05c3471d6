"""Roadworthy: serve any LangGraph agent over HTTP, durably.

Importing the package makes checkpoint deserialisation strict for the whole process: LangGraph reads
``LANGGRAPH_STRICT_MSGPACK`` once, when it is first imported, so the variable must be there before that.
"""

import os
from importlib.metadata import PackageNotFoundError, version

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"

try:
    __version__ = version("roadworthy")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
