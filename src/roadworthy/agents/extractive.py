"""The demo's model: a LangChain chat model without a language model in it.

It knows two moves. To a user's message it answers with a call of ``search_docs``; to that tool's result it answers with
the passage that fits best, quoted, and its source. Same conversation, same answer. It streams word by word like a real
provider, with usage and a stop reason, so that everything above it is exercised as with one. ``demo`` builds it.
"""

# ruff: noqa: ARG002 -- the signatures are LangChain's; the model has no use for most of their arguments

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from roadworthy.agents.answer import answer, introduction
from roadworthy.agents.terms import content_words

MODEL_NAME = "roadworthy-demo"
SEARCH_TOOL = "search_docs"

_TOKEN = re.compile(r"\S+\s*|\s+")


class ExtractiveModel(BaseChatModel):
    """Answers from search results by quoting them. Tokens are counted as words: there is no tokenizer."""

    @property
    def _llm_type(self) -> str:
        return MODEL_NAME

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> LangSmithParams:
        return LangSmithParams(ls_provider="roadworthy", ls_model_name=MODEL_NAME, ls_model_type="chat")

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: object,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model itself: the one tool it can call is fixed."""
        return self

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        for message in _chunks(messages):
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                run_manager.on_llm_new_token(message.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for message in _chunks(messages):
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(message.text, chunk=chunk)
            yield chunk
            # No network, so nothing else yields: without this the reader would get the answer in one piece.
            await asyncio.sleep(0)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        first, *rest = _chunks(messages)
        whole = first.__add__(rest)
        message = AIMessage(
            content=whole.content,
            tool_calls=whole.tool_calls,
            usage_metadata=whole.usage_metadata,
            response_metadata=whole.response_metadata,
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _chunks(messages: list[BaseMessage]) -> list[AIMessageChunk]:
    """Decide the reply to ``messages`` and cut it into words, the last chunk with usage and stop reason."""
    question = _last_question(messages)
    results = _search_results(messages)
    prompt_tokens = sum(_count(message.text) for message in messages)
    if results is not None:
        return _text_chunks(answer(question, results), prompt_tokens)
    if not content_words(question):
        return _text_chunks(introduction(), prompt_tokens)
    return _tool_call(question, len(messages), prompt_tokens)


def _text_chunks(text: str, prompt_tokens: int) -> list[AIMessageChunk]:
    words = _TOKEN.findall(text)
    return [*(AIMessageChunk(content=word) for word in words), _last_chunk("end_turn", prompt_tokens, len(words))]


def _tool_call(question: str, position: int, prompt_tokens: int) -> list[AIMessageChunk]:
    # Unique within a thread (its messages only grow in number) and the same whenever the same turn is played again.
    digest = sha256(f"{position} {question}".encode(errors="replace")).hexdigest()[:12]
    arguments = json.dumps({"query": question})
    call = tool_call_chunk(name=SEARCH_TOOL, args=arguments, id=f"call_{digest}", index=0)
    return [
        AIMessageChunk(content="", tool_call_chunks=[call]),
        _last_chunk("tool_use", prompt_tokens, _count(arguments)),
    ]


def _last_chunk(stop_reason: str, prompt_tokens: int, output_tokens: int) -> AIMessageChunk:
    return AIMessageChunk(
        content="",
        response_metadata={"model_name": MODEL_NAME, "stop_reason": stop_reason},
        usage_metadata=UsageMetadata(
            input_tokens=prompt_tokens, output_tokens=output_tokens, total_tokens=prompt_tokens + output_tokens
        ),
        chunk_position="last",
    )


def _last_question(messages: list[BaseMessage]) -> str:
    """Return the text of the last user message; other content blocks cannot be read by this model."""
    return next((message.text for message in reversed(messages) if isinstance(message, HumanMessage)), "")


def _search_results(messages: list[BaseMessage]) -> list[str] | None:
    """Return what the tool said since the last user message; None when it was not called yet."""
    results: list[str] = []
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, ToolMessage):
            results.insert(0, message.text)
    return results or None


def _count(text: str) -> int:
    return len(text.split())
