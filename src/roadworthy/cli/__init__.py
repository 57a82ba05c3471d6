"""The ``roadworthy`` command, one file per command; ``main`` puts them together.

Called by the operator; reads the settings once and calls ``bootstrap``, ``services`` and ``storage``. Heavy imports
stand inside functions here, so that ``roadworthy --help`` does not wait for LangChain.
"""
