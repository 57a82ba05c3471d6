"""A zero-latency LangChain chat model that says what a test wrote down; for tests and benchmarks without any HTTP.

It keeps no state: the n-th model call since the user last spoke gets the n-th turn (the last turn once they run out),
so any number of runs may share one model.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import JsonValue

from tests.support.provider.tokens import CHARS_PER_TOKEN, count_tokens, split_tokens

MODEL_NAME = "scripted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedCall:
    """One tool call; without `id` each answer makes a new one."""

    name: str
    args: Mapping[str, JsonValue]
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedTurn:
    """One answer; `cut` leaves out usage and stop reason, as a politely cut stream does."""

    text: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    stop_reason: str | None = None
    cut: bool = False


def text_of(tokens: int) -> str:
    """A text of exactly `tokens` tokens, which is streamed in as many chunks."""
    return "".join(f"{number % 1000:<{CHARS_PER_TOKEN}}" for number in range(tokens))


class ScriptedChatModel(BaseChatModel):
    """Streams `turns` in chunks of one token, `ms_per_token` apart (0: at once, without yielding to the loop).

    `provider` is the name it claims in its metadata, for code that judges a message by its provider.
    """

    turns: tuple[ScriptedTurn, ...] = (ScriptedTurn(text="Hello."),)
    ms_per_token: float = 0
    provider: str = MODEL_NAME

    @property
    def _llm_type(self) -> str:
        return MODEL_NAME

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model_name": MODEL_NAME, "provider": self.provider, "turns": repr(self.turns)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> LangSmithParams:
        return LangSmithParams(ls_provider=self.provider, ls_model_name=MODEL_NAME, ls_model_type="chat")

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: object,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model itself: the script already says which tools it calls."""
        return self

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        for message in self._chunks(messages):
            if self.ms_per_token:
                sleep(self.ms_per_token / 1000)
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
        for message in self._chunks(messages):
            if self.ms_per_token:
                await asyncio.sleep(self.ms_per_token / 1000)
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(message.text, chunk=chunk)
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        chunks = [chunk async for chunk in self._astream(messages, stop, run_manager)]
        return generate_from_stream(iter(chunks))

    def _chunks(self, messages: list[BaseMessage]) -> Iterator[AIMessageChunk]:
        turn = self.turns[min(_position(messages), len(self.turns) - 1)]
        metadata = {"model_provider": self.provider, "model_name": MODEL_NAME}
        output_tokens = 0
        for piece in split_tokens(turn.text):
            output_tokens += 1
            yield AIMessageChunk(content=piece, response_metadata={"model_provider": self.provider})
        for index, call in enumerate(turn.calls):
            for chunk in _call_chunks(index, call):
                output_tokens += count_tokens(chunk.tool_call_chunks[0]["args"] or "")
                yield chunk
        if turn.cut:
            yield AIMessageChunk(content="", response_metadata=metadata, chunk_position="last")
            return
        input_tokens = sum(count_tokens(message.text) for message in messages)
        natural = "tool_use" if turn.calls else "end_turn"
        yield AIMessageChunk(
            content="",
            response_metadata=metadata | {"stop_reason": turn.stop_reason or natural},
            usage_metadata=UsageMetadata(
                input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens
            ),
            chunk_position="last",
        )


def _position(messages: list[BaseMessage]) -> int:
    """Model answers since the user last spoke."""
    position = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        position += isinstance(message, AIMessage)
    return position


def _call_chunks(index: int, call: ScriptedCall) -> Iterator[AIMessageChunk]:
    call_id = call.id or f"call_{uuid4().hex}"
    first = tool_call_chunk(name=call.name, args="", id=call_id, index=index)
    yield AIMessageChunk(content="", tool_call_chunks=[first])
    for piece in split_tokens(json.dumps(dict(call.args))):
        part = tool_call_chunk(name=None, args=piece, id=None, index=index)
        yield AIMessageChunk(content="", tool_call_chunks=[part])
