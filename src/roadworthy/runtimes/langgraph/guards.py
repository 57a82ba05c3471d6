"""Guards around the tools of ``ToolNode``s: a bound on time, a bound on output, and failures that the model can read.

``registry`` wraps every ToolNode it can reach in a graph and its subgraphs, on copies. A tool that raises past its
author's own handling, or takes too long, gives the model an error result, and the run goes on. Around each call the
attempt's ``tool_journal`` is asked: a call that an earlier attempt finished is not made again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeAlias, cast

from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import run_in_executor
from langgraph.errors import GraphBubbleUp, GraphInterrupt, is_invalid_resume
from langgraph.prebuilt.tool_node import ToolCallRequest, ToolNode
from langgraph.pregel import Pregel
from langgraph.types import Command

from roadworthy.domain.errors import LeaseLost, StorageUnavailable
from roadworthy.runtimes.langgraph.current import current_attempt, inside_tool
from roadworthy.runtimes.langgraph.effects import declared_effects
from roadworthy.runtimes.langgraph.graphs import Graph
from roadworthy.runtimes.langgraph.tool_events import cut_text
from roadworthy.runtimes.langgraph.tool_journal import JournalledCall, Remembered
from roadworthy.runtimes.langgraph.tool_results import ToolResult

_log = logging.getLogger(__name__)

Execute: TypeAlias = Callable[[ToolCallRequest], Awaitable[ToolResult]]
SyncExecute: TypeAlias = Callable[[ToolCallRequest], ToolResult]

# What ends the run whatever a tool thinks of it.
_PASSING = (GraphBubbleUp, LeaseLost, StorageUnavailable)
_CANCEL_SECONDS = 1.0
_ASYNC_WRAPPER, _SYNC_WRAPPER = "_awrap_tool_call", "_wrap_tool_call"
# Where a tool finds its call's key, in ``configurable`` and in ``metadata``.
_IDEMPOTENCY_KEY = "idempotency_key"
# Set by LangGraph at compile and lost by ``copy``.
_KEPT = ("_serde_allowlist", "_output_mapper", "_state_mapper")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolGuard:
    """The bounds of one tool call: its time, and the characters of its result that are kept."""

    timeout: timedelta
    max_chars: int


def guarded(graph: Graph, guard: ToolGuard, update: Mapping[str, object]) -> Graph:
    """A copy of the graph with ``update`` applied and its ToolNodes, subgraphs' included, guarded.

    Raises:
        ConfigError: a tool declares an effect that does not exist.
    """
    nodes: dict[str, object] = {}
    for name, node in graph.nodes.items():
        bound = _guarded_bound(node.bound, guard)
        # ``subgraphs`` None: found again in the new bound.
        nodes[name] = node if bound is node.bound else node.copy({"bound": bound, "subgraphs": None})
    result = graph.copy({**update, "nodes": nodes})
    for name in _KEPT:
        if hasattr(graph, name):
            setattr(result, name, getattr(graph, name))
    return result


def _guarded_bound(bound: object, guard: ToolGuard) -> object:
    if isinstance(bound, ToolNode):
        return _guarded_tools(bound, guard)
    if isinstance(bound, Pregel) and _reaches_tools(bound):
        return guarded(bound, guard, {})
    return bound


def _reaches_tools(graph: Graph) -> bool:
    return any(
        isinstance(node.bound, ToolNode) or (isinstance(node.bound, Pregel) and _reaches_tools(node.bound))
        for node in graph.nodes.values()
    )


def _guarded_tools(node: ToolNode, guard: ToolGuard) -> ToolNode:
    watch = _Watch(guard, node)
    # ToolNode keeps two of its methods as the runnable's functions: those of the copy must be the copy's own.
    result = copy(node)
    setattr(result, _ASYNC_WRAPPER, watch.call)
    setattr(result, _SYNC_WRAPPER, watch.call_sync)
    result.func = getattr(result, "_func")  # noqa: B009
    result.afunc = getattr(result, "_afunc")  # noqa: B009
    return result


class _Unfinished(Exception):
    """A tool that must run only once was stopped before its end."""


class _Watch:
    """The wrapper of one ToolNode's calls, around the author's wrapper if there is one."""

    def __init__(self, guard: ToolGuard, node: ToolNode) -> None:
        self._guard = guard
        self._effects = declared_effects(node)
        self._unwritable: set[str] = set()
        # The author's wrappers have no public name.
        own_async, own_sync = getattr(node, _ASYNC_WRAPPER), getattr(node, _SYNC_WRAPPER)
        self._own_async = cast("Callable[[ToolCallRequest, Execute], Awaitable[ToolResult]] | None", own_async)
        self._own_sync = cast("Callable[[ToolCallRequest, SyncExecute], ToolResult] | None", own_sync)

    async def call(self, request: ToolCallRequest, execute: Execute) -> ToolResult:
        """Run one tool call within its bounds, unless it was run before."""
        call = self._journalled(request)
        if call is None:
            return await self._bounded(request, execute)
        if (known := await call.recall()) is not None:
            return _replayed(request, known)
        try:
            result = await self._bounded(request, execute, once=call.once)
        except _Unfinished:
            await call.park()
        except GraphBubbleUp as stopped:
            if call.once and _has_done_nothing(request, stopped):
                await call.withdraw()
            raise
        if not await call.keep(result):
            self._note_unwritable(request)
        return result

    def call_sync(self, request: ToolCallRequest, execute: SyncExecute) -> ToolResult:
        """As ``call``, in graphs that run in threads; their tools' time is bounded by the run's deadline only."""
        call = self._journalled(request)
        journal = None if call is None else call.journal
        if call is None or journal is None or (journal.on_loop and not call.once):
            return self._run_sync(request, execute)
        if (known := journal.wait(call.recall())) is not None:
            return _replayed(request, known)
        try:
            result = self._run_sync(request, execute)
        except GraphBubbleUp as stopped:
            if call.once and _has_done_nothing(request, stopped):
                journal.wait(call.withdraw())
            raise
        if not journal.wait(call.keep(result)):
            self._note_unwritable(request)
        return result

    def _journalled(self, request: ToolCallRequest) -> JournalledCall | None:
        """The call in the attempt's journal, and its key where its tool can read it. None outside of attempts."""
        scope, call = current_attempt.get(), request.tool_call
        if scope is None or scope.tool_journal is None or not call["id"]:
            return None
        config, key = request.runtime.config, scope.tool_journal.key(call["id"])
        where = config["configurable"] = {**config.get("configurable", {}), _IDEMPOTENCY_KEY: key}
        config["metadata"] = {**config.get("metadata", {}), _IDEMPOTENCY_KEY: key}
        return JournalledCall(
            scope.tool_journal,
            call_id=call["id"],
            name=call["name"],
            args=call["args"],
            effect=self._effects.get(call["name"]),
            task=str(where.get("checkpoint_ns", "")),
            state=request.state,
        )

    def _note_unwritable(self, request: ToolCallRequest) -> None:
        name = request.tool_call["name"]
        if name not in self._unwritable:
            self._unwritable.add(name)
            _log.warning("results of the tool %s cannot be stored: after a crash it will be run again", name)

    async def _bounded(self, request: ToolCallRequest, execute: Execute, *, once: bool = False) -> ToolResult:
        """``once``: a tool that does not come to its end raises _Unfinished."""
        _announce_unknown(request)
        seconds = self._guard.timeout.total_seconds()
        # A task of its own: a tool that ignores its cancellation must not hold up the run.
        work = asyncio.get_running_loop().create_task(self._run(request, execute))
        try:
            await asyncio.wait({work}, timeout=seconds)
            if work.done() and not work.cancelled():
                return self._settle(request, work)
            cancelled = work.done()
        finally:
            await _end(work)
        reason = "was cancelled" if cancelled else f"did not finish within {seconds:g} s and was stopped"
        result = self._failed(request, f"the tool {reason}")
        if once:
            raise _Unfinished(reason)
        return result

    def _run_sync(self, request: ToolCallRequest, execute: SyncExecute) -> ToolResult:
        _announce_unknown(request)
        token = inside_tool.set(True)
        try:
            result = execute(request) if self._own_sync is None else self._own_sync(request, execute)
        except _PASSING:
            raise
        except Exception as error:  # noqa: BLE001 -- a tool may raise anything; the model is told its kind
            return self._raised(request, error)
        finally:
            inside_tool.reset(token)
        return self._finished(request, result)

    async def _run(self, request: ToolCallRequest, execute: Execute) -> ToolResult:
        inside_tool.set(True)
        if self._own_async is not None:
            return await self._own_async(request, execute)
        if self._own_sync is None:
            return await execute(request)
        # The author's wrapper is sync: it gets a thread, so that it cannot block the loop, and the tool stays here.
        loop = asyncio.get_running_loop()

        def execute_here(inner: ToolCallRequest) -> ToolResult:
            return asyncio.run_coroutine_threadsafe(_awaited(execute, inner), loop).result()

        return await run_in_executor(None, self._own_sync, request, execute_here)

    def _settle(self, request: ToolCallRequest, work: "asyncio.Task[ToolResult]") -> ToolResult:
        try:
            result = work.result()
        except _PASSING:
            raise
        except Exception as error:  # noqa: BLE001 -- a tool may raise anything; the model is told its kind
            return self._raised(request, error)
        return self._finished(request, result)

    def _raised(self, request: ToolCallRequest, error: Exception) -> ToolResult:
        if is_invalid_resume(error):
            raise error
        return self._failed(request, f"the tool failed with {type(error).__name__}")

    def _failed(self, request: ToolCallRequest, reason: str) -> ToolResult:
        call = request.tool_call
        if (scope := current_attempt.get()) is not None:
            scope.tools.give_up(str(call["id"]), reason)
        return ToolMessage(f"Error: {reason}", tool_call_id=call["id"], name=call["name"], status="error")

    def _finished(self, request: ToolCallRequest, result: ToolResult) -> ToolResult:
        if request.tool is None and (scope := current_attempt.get()) is not None:
            scope.tools.end(str(request.tool_call["id"]), result)
        return _capped(result, self._guard.max_chars)


def _replayed(request: ToolCallRequest, known: Remembered) -> ToolResult:
    """The result of an earlier execution, shown to the client again."""
    if (scope := current_attempt.get()) is not None:
        call = request.tool_call
        scope.tools.replay(str(call["id"]), call["name"], call["args"], known.result, known.duration_ms)
    return known.result


def _has_done_nothing(request: ToolCallRequest, stopped: GraphBubbleUp) -> bool:
    """Whether a tool was stopped before its effect: it asks a human first, or was not let begin."""
    scope = current_attempt.get()
    begun = scope is not None and scope.tools.is_running(str(request.tool_call["id"]))
    return isinstance(stopped, GraphInterrupt) or not begun


async def _end(work: "asyncio.Task[ToolResult]") -> None:
    """Cancel what still runs; a tool that will not hear of it is left to the attempt, which waits for it at its end."""
    if work.done():
        return
    work.cancel()
    await asyncio.wait({work}, timeout=_CANCEL_SECONDS)
    if not work.done() and (scope := current_attempt.get()) is not None:
        scope.work.add(work)


async def _awaited(execute: Execute, request: ToolCallRequest) -> ToolResult:
    return await execute(request)


def _announce_unknown(request: ToolCallRequest) -> None:
    """A call of a tool that does not exist reaches no callback: tell of it here."""
    if request.tool is None and (scope := current_attempt.get()) is not None:
        call = request.tool_call
        scope.tools.start(str(call["id"]), call["name"], call["args"], "", call["id"])


def _capped(result: ToolResult, max_chars: int) -> ToolResult:
    if isinstance(result, list):
        return [cast("ToolMessage | Command[Any]", _capped(one, max_chars)) for one in result]
    if isinstance(result, ToolMessage):
        return _capped_message(result, max_chars)
    update: object = result.update
    if isinstance(update, Mapping):
        return replace(result, update={key: _capped_value(value, max_chars) for key, value in update.items()})
    return result


def _capped_value(value: object, max_chars: int) -> object:
    if isinstance(value, ToolMessage):
        return _capped_message(value, max_chars)
    if isinstance(value, list):
        return [_capped_value(one, max_chars) for one in value]
    return value


def _capped_message(message: ToolMessage, max_chars: int) -> ToolMessage:
    content: object = message.content
    if isinstance(content, str):
        return (
            message
            if len(content) <= max_chars
            else message.model_copy(update={"content": cut_text(content, max_chars)})
        )
    return (
        message.model_copy(update={"content": _capped_blocks(content, max_chars)})
        if _too_long(content, max_chars)
        else message
    )


def _too_long(content: object, max_chars: int) -> bool:
    return isinstance(content, Sequence) and sum(len(_block_text(block)) for block in content) > max_chars


def _capped_blocks(content: object, max_chars: int) -> object:
    left = max_chars
    blocks: list[object] = []
    for block in content if isinstance(content, Sequence) else ():
        text = cut_text(_block_text(block), max(0, left))
        left -= len(text)
        if isinstance(block, str):
            blocks.append(text)
        else:
            blocks.append({**block, "text": text} if isinstance(block, Mapping) and "text" in block else block)
    return blocks


def _block_text(block: object) -> str:
    if isinstance(block, str):
        return block
    text: object = block.get("text") if isinstance(block, Mapping) else None
    return text if isinstance(text, str) else ""
