"""A model that never says the same twice, and deaths after the n-th write, responses included."""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy
from pydantic import Field

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import ModelReplayed
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime
from tests.conformance.runtime.playing import Played, intercepted, looked_up
from tests.support.scripted_model import ScriptedChatModel, ScriptedTurn


class NumberedModel(ScriptedChatModel):
    """Puts a number in front of each answer; ``billed`` are the numbers. ``{n}`` in a turn's text is the number too."""

    billed: Any = Field(default_factory=list)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        first = self._first()
        yield first
        yield from super()._stream(messages, stop, run_manager)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        yield self._first()
        async for chunk in super()._astream(messages, stop, run_manager):
            yield chunk

    def _first(self) -> ChatGenerationChunk:
        number = len(self.billed) + 1
        self.billed.append(number)
        return ChatGenerationChunk(message=AIMessageChunk(content=f"#{number} "))


def numbered(*turns: ScriptedTurn | str, **fields: Any) -> NumberedModel:
    """A model with these turns."""
    return NumberedModel(
        turns=tuple(ScriptedTurn(text=turn) if isinstance(turn, str) else turn for turn in turns or ("said",)), **fields
    )


@dataclass
class Death:
    """``refused``: the names of writes that came too late."""

    refused: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        return bool(self.refused)


@contextmanager
def dies_after(
    runtime: LangGraphRuntime, writes: int | None, monkeypatch: pytest.MonkeyPatch, *, responses: int | None = None
) -> Generator[Death]:
    """Let only so many writes, or responses, reach the file of the checkpoints, as if the process had died then."""
    death = Death()
    left = [-1 if writes is None else writes, -1 if responses is None else responses]

    async def around(name: str, proceed: Callable[[], Awaitable[Any]]) -> Any:
        if name in {"write", "keep_response"}:
            if 0 in left:
                death.refused.append(name)
                raise StorageUnavailable("crashed")
            left[0] -= 1
            stored = await proceed()
            left[0] += stored is False  # a response whose checkpoint is not there yet
            left[1] -= stored is True
            return stored
        return await proceed()

    with intercepted(runtime, monkeypatch, around):
        yield death


def graph_of(node: Callable[..., Any], retry: RetryPolicy | None = None) -> Any:
    """A graph of one node over messages."""
    return StateGraph(MessagesState).add_node("node", node, retry_policy=retry).add_edge(START, "node").compile()


def output_of(played: Played) -> Any:
    """The state that a run ended with."""
    return played.completed.output


async def rows_in(runtime: LangGraphRuntime) -> int:
    """How many responses are in the journal."""
    return int((await looked_up(runtime, "SELECT count(*) FROM journal"))[0][0])


def remembering(model: Any, seen: list[Any]) -> Any:
    """A graph of one call; ``seen`` are its answers, as the node got them."""

    async def ask(state: MessagesState) -> Any:
        answer = await model.ainvoke(state["messages"])
        seen.append(answer)
        return {"messages": [answer]}

    return graph_of(ask)


def kept(played: Played) -> Sequence[ModelCall]:
    """The calls of an attempt whose responses nobody has to buy again."""
    return [call for call in played.of(ModelCall) if call.outcome == "complete" and call.journalled]


def replayed(played: Played) -> Sequence[ModelCall]:
    """The calls that an attempt did not have to make."""
    return [event.call for event in played.of(ModelReplayed)]
