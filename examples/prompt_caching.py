"""Prompt caching: the provider keeps what every call repeats, and bills it at a fraction."""

from langchain.agents import create_agent
from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware
from langchain_core.tools import tool


@tool
def opening_hours(day: str) -> str:
    """Tell when the shop is open on a day."""
    return f"On {day} the shop is open from 9 to 17."


graph = create_agent(
    "anthropic:claude-sonnet-5",
    [opening_hours],
    system_prompt="You answer for a bicycle shop. Look the opening hours up, never guess them.",
    # Marks the tools, the system prompt and the end of the conversation. Last, to see the model really called.
    middleware=[AnthropicPromptCachingMiddleware(ttl="5m", unsupported_model_behavior="ignore")],
)
