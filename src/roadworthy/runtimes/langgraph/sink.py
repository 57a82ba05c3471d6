"""Hears what a graph says about its state while it runs, in order, and makes events of it.

``config`` puts it into a run; LangGraph calls it from the loop or from threads of sync nodes. Text of models that
stream has been told by ``metering``; what nodes say without a model is told here, once it is in the root's state.
"""

from collections.abc import Callable, Mapping

from langchain_core.messages import AIMessage
from langgraph.types import Interrupt as GraphInterrupt

from roadworthy.domain.event import ContentDelta, CustomData
from roadworthy.ports.runtime import Progress, RuntimeEvent
from roadworthy.runtimes.langgraph.jsonable import clean_text, to_json
from roadworthy.runtimes.langgraph.messages import text_of
from roadworthy.runtimes.langgraph.results import Results

_INTERRUPT = "__interrupt__"


class StateSink:
    """One attempt's ear. ``streamed``: ids of messages whose text was told already. ``goes_on``: the state that it
    starts from is an earlier attempt's, which may have died before it told everything.
    """

    def __init__(
        self, emit: Callable[[RuntimeEvent], None], results: Results, streamed: set[str], *, goes_on: bool = False
    ) -> None:
        self._emit = emit
        self._results = results
        self._streamed = streamed
        self._stepped = False
        self._goes_on = goes_on
        self.interrupts: dict[str, GraphInterrupt] = {}
        self.paused = False

    def state(self, part: tuple[tuple[str, ...], str, object]) -> None:
        """A graph, or a subgraph of it, finished a task (``updates``) or a step (``values``)."""
        namespace, mode, data = part
        if mode == "updates":
            self._updates(namespace, data)
        elif not namespace:
            self._values(data)

    def custom(self, data: object) -> None:
        """A node or tool wrote to LangGraph's stream writer."""
        self._emit(CustomData(data=to_json(data)))

    def _updates(self, namespace: tuple[str, ...], data: object) -> None:
        self._emit(Progress())
        if namespace:
            return
        self._stepped = True
        if isinstance(data, Mapping) and _INTERRUPT in data:
            self.paused = True
            for asked in data[_INTERRUPT]:
                if isinstance(asked, GraphInterrupt):
                    self.interrupts[asked.id] = asked

    def _values(self, data: object) -> None:
        if isinstance(data, Mapping) and _INTERRUPT in data:
            data = {key: value for key, value in data.items() if key != _INTERRUPT}
            if not data:
                return  # a graph whose state is one value has only its questions to show
        self._results.state(data)
        if not self._stepped and not self._goes_on:
            # The state as the run found or made it with its input: nobody says that now.
            self._results.know(data)
            return
        for message in self._results.new_answers():
            self._tell(message)

    def _tell(self, message: AIMessage) -> None:
        if message.id is None or message.id in self._streamed:
            return
        self._streamed.add(message.id)
        if text := text_of(message.content):
            self._emit(ContentDelta(message_id=message.id, text=clean_text(text)))
