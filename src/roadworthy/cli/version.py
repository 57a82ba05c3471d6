"""``roadworthy version``: what is installed, for a bug report."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from roadworthy import __version__
from roadworthy.cli.output import say

_PACKAGES = ("langgraph", "langchain", "langgraph-checkpoint-sqlite", "fastapi", "uvicorn")


def version() -> None:
    """Print the versions of Roadworthy, Python and the libraries that matter most."""
    say(f"roadworthy {__version__}")
    say(f"python {platform.python_version()}")
    for package in _PACKAGES:
        try:
            say(f"{package} {installed(package)}")
        except PackageNotFoundError:
            say(f"{package} is not installed")
