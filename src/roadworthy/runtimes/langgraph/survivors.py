"""Which messages a state holds, wherever: in its values, in the results of finished tasks, in open subgraphs.

``runtime`` asks after a crash, to tell the text that survived from the text that will be written again.
"""

from collections.abc import Iterator, Mapping

from langchain_core.messages import BaseMessage
from langgraph.types import StateSnapshot

from roadworthy.runtimes.langgraph.jsonable import clean_text
from roadworthy.runtimes.langgraph.messages import text_of


def texts_in(state: StateSnapshot) -> Mapping[str, str]:
    """The texts of all messages in the state and in the states below it, by id."""
    return {str(message.id): clean_text(text_of(message.content)) for message in _messages(state)}


def is_cut_off(shown: str, whole: str) -> bool:
    """Whether only the beginning of a text was shown."""
    return shown != whole and whole.startswith(shown)


def _messages(state: StateSnapshot) -> Iterator[BaseMessage]:
    yield from _messages_of(state.values)
    for task in state.tasks:
        yield from _messages_of(task.result)
        if isinstance(task.state, StateSnapshot):
            yield from _messages(task.state)


def _messages_of(values: object) -> Iterator[BaseMessage]:
    """Messages lie directly in a channel or in a list of it; nothing deeper is a conversation."""
    channels = values.values() if isinstance(values, Mapping) else (values,)
    for channel in channels:
        for item in channel if isinstance(channel, list | tuple) else (channel,):
            if isinstance(item, BaseMessage) and item.id:
                yield item
