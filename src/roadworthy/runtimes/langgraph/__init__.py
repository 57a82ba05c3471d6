"""Serves LangGraph graphs as they are: loads, guards, runs, resumes and erases them.

``loader`` and ``factories`` bring graphs in, ``runtime`` is the port's adapter, ``run`` one attempt. Everything that
knows LangGraph's and LangChain's inner shapes lives in this folder.
"""
