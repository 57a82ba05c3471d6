"""What a run amounts to: its answer, its output and its structured response, from the last state it reached.

``sink`` feeds it each state, ``run`` asks at the end.
"""

from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage
from langgraph.types import Interrupt as GraphInterrupt

from roadworthy.domain.json import JsonValue
from roadworthy.domain.run import Interrupt
from roadworthy.ports.runtime import Completed, Paused
from roadworthy.runtimes.langgraph.graphs import ServedGraph, output_keys
from roadworthy.runtimes.langgraph.jsonable import clean_text, to_json
from roadworthy.runtimes.langgraph.messages import messages_in, text_of

_STRUCTURED = "structured_response"


class Results:
    """``known``: ids of the answers that were there before the run."""

    def __init__(self, served: ServedGraph, known: frozenset[str]) -> None:
        self._served = served
        self._known = set(known)
        self._values: object = None

    def state(self, values: object) -> None:
        """The root graph's state is now this."""
        self._values = values

    def know(self, values: object) -> None:
        """The answers in this state are not the run's own."""
        self._known.update(message.id for message in self._answers(values) if message.id)

    def new_answers(self) -> Sequence[AIMessage]:
        """The assistant messages of the present state that this run made, oldest first."""
        return [message for message in self._answers(self._values) if message.id not in self._known]

    def completed(self) -> Completed:
        """The run reached its end."""
        return Completed(
            response=self._response(), output=self._output(), structured_response=self._structured_response()
        )

    def paused(self) -> Paused:
        """The run waits for a human."""
        return Paused(response=self._response(), output=self._output())

    def _response(self) -> str:
        answers = self.new_answers()
        return clean_text(text_of(answers[-1].content)) if answers else ""

    def _output(self) -> JsonValue:
        keys = output_keys(self._served.graph)
        if keys is not None and isinstance(self._values, Mapping):
            return to_json({key: self._values[key] for key in keys if key in self._values})
        return to_json(self._values)

    def _structured_response(self) -> JsonValue:
        held: object = self._values.get(_STRUCTURED) if isinstance(self._values, Mapping) else None
        return to_json(held)

    def _answers(self, values: object) -> Sequence[AIMessage]:
        return [message for message in messages_in(values, self._served.messages) if isinstance(message, AIMessage)]


def interrupts_of(asked: Sequence[GraphInterrupt]) -> tuple[Interrupt, ...]:
    """LangGraph's interrupts as ours."""
    return tuple(Interrupt(id=one.id, value=to_json(one.value)) for one in asked)
