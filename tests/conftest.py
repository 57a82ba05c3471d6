"""Importing the package first makes checkpoint deserialisation strict, as in the server."""

import roadworthy

assert roadworthy.__version__
