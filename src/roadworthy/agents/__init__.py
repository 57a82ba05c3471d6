"""Built-in agents: plain LangGraph graphs made by ``build`` factories, called once by ``bootstrap``.

``demo`` answers offline from the shipped docs; ``assistant`` talks to a model provider. The server treats both like
any user's graph. ``models`` tells ``doctor`` what is wrong with a model id. Nothing here reads the environment or works
at import.
"""
