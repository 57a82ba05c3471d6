"""Routing: a cheap model answers small talk, the good one everything else."""

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse, wrap_model_call
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage, HumanMessage

SHORT = 200  # characters
cheap = init_chat_model("anthropic:claude-haiku-4-5")


def is_small_talk(request: ModelRequest[Any]) -> bool:
    """Looks at the whole thread: once the good model has answered, the thread stays with it and its prompt cache."""
    return not any(
        (isinstance(message, HumanMessage) and len(message.text) >= SHORT)
        or (isinstance(message, AIMessage) and message.tool_calls)
        for message in request.messages
    )


@wrap_model_call
async def route(
    request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
) -> ModelResponse[Any]:
    """Chooses the model of one call."""
    return await handler(request.override(model=cheap) if is_small_talk(request) else request)


graph = create_agent("anthropic:claude-sonnet-5", middleware=[route])
