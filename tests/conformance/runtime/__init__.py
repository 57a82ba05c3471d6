"""Every runtime obeys its port; the LangGraph one is held against real graphs and the real SQLite checkpointer."""
