"""Sends small talk to a cheaper model: the ``assistant``'s choice of the model for each call.

A provider's prompt cache belongs to one model, so each change of the model pays for the whole conversation again. A
thread therefore changes once at most: from the cheap model to the main one, and never back.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage


class CheapModel(AgentMiddleware[Any, Any, Any]):  # LangChain's own defaults: any state, context and response
    """Asks ``model`` instead of the agent's own for as long as a conversation ``is_small_talk``."""

    def __init__(self, model: BaseChatModel, *, below_chars: int) -> None:
        super().__init__()
        self._model = model
        self._below_chars = below_chars

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model that the conversation deserves."""
        return handler(self._routed(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Call the model that the conversation deserves."""
        return await handler(self._routed(request))

    def _routed(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        if is_small_talk(request.messages, below_chars=self._below_chars):
            return request.override(model=self._model)
        return request


def is_small_talk(messages: Sequence[AnyMessage], *, below_chars: int) -> bool:
    """Whether every message of the user is plain text of fewer characters, and no tool was needed so far."""
    for message in messages:
        if isinstance(message, AIMessage) and message.tool_calls:
            return False
        if isinstance(message, HumanMessage) and not _is_short(message, below_chars):
            return False
    return True


def _is_short(message: HumanMessage, below_chars: int) -> bool:
    if "lc_source" in message.additional_kwargs:
        return False  # a summary stands for a conversation that was long
    blocks = message.content if isinstance(message.content, list) else []
    if any(isinstance(block, dict) and block.get("type") != "text" for block in blocks):
        return False
    return len(message.text) < below_chars
