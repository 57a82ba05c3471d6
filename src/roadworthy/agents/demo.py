"""The built-in agent that needs nothing: no account, no network, no language model.

A stock LangChain agent whose model is ``extractive`` and whose one tool searches the shipped docs (``docs_index``).
``bootstrap`` builds it once at start.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from langchain.agents import create_agent
from langchain.agents.middleware.types import AgentState, InputAgentState, OutputAgentState
from langchain_core.tools import BaseTool, tool
from langgraph.graph.state import CompiledStateGraph

from roadworthy.agents.docs_index import DocsIndex, find_docs
from roadworthy.agents.extractive import SEARCH_TOOL, ExtractiveModel

# LangChain's own annotation of what `create_agent` returns, `Any` included.
DemoGraph: TypeAlias = CompiledStateGraph[AgentState[Any], None, InputAgentState, OutputAgentState[Any]]


def build(docs: Path | None = None) -> DemoGraph:
    """Build the demo agent over the markdown in ``docs`` (default: the docs shipped with Roadworthy).

    Reads the files and fills the search index now. A missing or empty folder makes an agent that finds
    nothing and says so.
    """
    index = DocsIndex(docs if docs is not None else find_docs())
    return create_agent(ExtractiveModel(), [_search_tool(index)], name="demo")


def _search_tool(index: DocsIndex) -> BaseTool:
    @tool(SEARCH_TOOL)
    def search_docs(query: str) -> str:
        """Search Roadworthy's documentation. Returns a JSON list of passages, each with source, title and text."""
        return json.dumps([asdict(passage) for passage in index.search(query)], ensure_ascii=False)

    return search_docs
