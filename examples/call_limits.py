"""Call limits: an agent that goes in circles ends its answer instead of going on at your expense."""

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware, ToolCallLimitMiddleware
from langchain_core.tools import tool


@tool
def search(query: str) -> str:
    """Search the catalogue."""
    return f"Nothing was found for {query}."


graph = create_agent(
    "anthropic:claude-sonnet-5",
    [search],
    middleware=[
        # The answer ends with a message that says so.
        ModelCallLimitMiddleware(run_limit=5),
        # The model is told that it may search no more, and answers with what it has.
        ToolCallLimitMiddleware(tool_name="search", run_limit=3),
    ],
)
