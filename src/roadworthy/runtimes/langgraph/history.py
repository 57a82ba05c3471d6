"""Reads what a thread held at some checkpoint, as far as a run needs to know it before it starts.

``run`` uses it. Reading the latest checkpoint costs nothing extra: LangGraph, which reads it next, is handed the same.
"""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol

from roadworthy.domain.run import Run
from roadworthy.runtimes.langgraph.current import Ahead, current_attempt
from roadworthy.runtimes.langgraph.graphs import ServedGraph
from roadworthy.runtimes.langgraph.messages import messages_in
from roadworthy.runtimes.langgraph.savers import FencedSaver


class ThreadHistory:
    """One thread's past, read by the agent's own graph. ``config`` names the thread."""

    def __init__(self, served: ServedGraph, saver: FencedSaver, config: RunnableConfig) -> None:
        self.config = config
        self._served = served
        # The graph's own copy of the saver knows the types of its state.
        checkpointer = served.graph.checkpointer
        self._saver = checkpointer if isinstance(checkpointer, FencedSaver) else saver

    @property
    def serde(self) -> SerializerProtocol:
        """What reads and writes the agent's state, with the types that it knows."""
        return self._saver.serde

    async def latest(self) -> CheckpointTuple | None:
        """The latest root checkpoint, which LangGraph will be given without reading it again."""
        found = await self._saver.aget_tuple(self.config)
        self.hand_over(found)
        return found

    def hand_over(self, latest: CheckpointTuple | None) -> None:
        """Spare LangGraph its own reading of the latest root checkpoint."""
        if (scope := current_attempt.get()) is not None:
            thread = str(self.config.get("configurable", {})["thread_id"])
            scope.ahead = Ahead(thread=thread, latest=latest)
            if latest is not None:
                scope.watch.is_at(thread, "", latest.checkpoint["id"])

    async def answers_before(self, run: Run, latest: CheckpointTuple | None) -> frozenset[str]:
        """The ids of the assistant messages that were there before the run's first step."""
        before = latest
        if latest is not None and latest.metadata.get("run_id") == run.run_id:
            before = await self._before_run(run)
        if before is None:
            return frozenset()
        return frozenset(m.id for m in await self.messages_at(before) if isinstance(m, AIMessage) and m.id)

    async def messages_at(self, found: CheckpointTuple) -> Sequence[BaseMessage]:
        """The messages of a checkpoint, without what its unfinished step has produced."""
        channels = self._served.graph.channels
        if any(isinstance(channels[name], DeltaChannel) for name in self._served.messages):
            state = await self._served.graph.aget_state(found.config)
            return messages_in(state.values, self._served.messages)
        return messages_in(found.checkpoint["channel_values"], self._served.messages)

    async def live_messages(self) -> Sequence[BaseMessage]:
        """The messages of the latest checkpoint and of the tasks that finished after it."""
        state = await self._served.graph.aget_state(self.config)
        await self.latest()
        return messages_in(state.values, self._served.messages)

    async def _before_run(self, run: Run) -> CheckpointTuple | None:
        where = self.config.get("configurable", {})
        checkpoint_id = await self._saver.before_run(str(where["thread_id"]), run.run_id)
        if checkpoint_id is None:
            return None
        return await self._saver.aget_tuple({"configurable": {**where, "checkpoint_id": checkpoint_id}})
