"""What is stored and how: schema, statements, executors, repositories, the event log.

Wired by ``bootstrap.py`` behind the protocols of ``ports``; calls SQLAlchemy Core for text and ``sqlite3`` for work.
"""
