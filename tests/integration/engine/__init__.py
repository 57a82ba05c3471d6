"""Worker, attempts, services and SQLite in one process, on agents that do what a test wrote down."""
