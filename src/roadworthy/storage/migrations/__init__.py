"""Alembic's environment and revisions. Run by ``storage/schema.py``, never by hand."""
