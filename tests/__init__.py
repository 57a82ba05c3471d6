"""Proof that the server keeps its promises: one folder for each kind of evidence."""
