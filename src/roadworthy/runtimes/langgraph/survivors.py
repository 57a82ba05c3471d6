"""Which messages a state holds, wherever: in its values, in the results of finished tasks, in open subgraphs.

``runtime`` asks after a crash, to tell the text that survived from the text that will be written again.
"""

from collections.abc import Iterator, Mapping

from langchain_core.messages import BaseMessage
from langgraph.types import StateSnapshot


def message_ids_in(state: StateSnapshot) -> frozenset[str]:
    """Ids of all messages in the state and in the states below it."""
    return frozenset(_ids(state))


def _ids(state: StateSnapshot) -> Iterator[str]:
    yield from _ids_of(state.values)
    for task in state.tasks:
        yield from _ids_of(task.result)
        if isinstance(task.state, StateSnapshot):
            yield from _ids(task.state)


def _ids_of(values: object) -> Iterator[str]:
    """Messages lie directly in a channel or in a list of it; nothing deeper is a conversation."""
    channels = values.values() if isinstance(values, Mapping) else (values,)
    for channel in channels:
        for item in channel if isinstance(channel, list | tuple) else (channel,):
            if isinstance(item, BaseMessage) and item.id:
                yield item.id
