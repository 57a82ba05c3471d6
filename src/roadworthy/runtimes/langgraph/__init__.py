"""runtimes/langgraph"""
