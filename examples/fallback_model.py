"""Fallback: when the first model does not answer, another one does."""

from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain.chat_models import init_chat_model

# Without retries of the client, the fallback takes over at once.
graph = create_agent(
    init_chat_model("anthropic:claude-sonnet-5", max_retries=0),
    middleware=[ModelFallbackMiddleware(init_chat_model("anthropic:claude-haiku-4-5", max_retries=0))],
)
