"""The rules of the code that a machine can check."""
