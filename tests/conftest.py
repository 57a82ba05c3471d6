"""Importing the package first makes checkpoint deserialisation strict, as in the server."""

import gc
import warnings
from collections.abc import Generator

import pytest

import roadworthy

assert roadworthy.__version__


@pytest.fixture(scope="module", autouse=True)
def forgotten_connections() -> Generator[None]:
    """Connections to servers that were killed are left half closed, and clients of model providers are never closed by
    LangChain. They are let go of here, where they belong, and not in whatever test comes next.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
