"""An agent whose model says in a file what it did, so that nobody's books have to be believed.

``WITNESS`` names the file: a line for each beginning and each end of a model call. A
line is one write, so that processes may share the file, and one that dies leaves none in halves.
"""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk

from benchmarks.graphs.scripted import Graph
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn, text_of

TOKENS = 20
ANSWER = text_of(TOKENS)
_MS_PER_TOKEN = 10.0


class WitnessedModel(ScriptedChatModel):
    """The scripted model. A provider bills what it says that it has sent."""

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = next(message.text for message in reversed(messages) if isinstance(message, HumanMessage))
        witness(asked, "begun")
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            if usage := getattr(chunk.message, "usage_metadata", None):
                # Sent whole, as far as the provider knows, whatever becomes of who receives it.
                witness(asked, "ended", input=usage["input_tokens"], output=usage["output_tokens"])
            yield chunk


def graph() -> Graph:
    """A model call, a tool, a model call."""
    call = ScriptedTurn(calls=(ScriptedCall(name="look_up", args={"word": "road"}),))
    model = WitnessedModel(turns=(call, ScriptedTurn(text=ANSWER)), ms_per_token=_MS_PER_TOKEN)
    return create_agent(model, tools=[look_up])


async def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a way that is open to all"


def witness(asked: str, what: str, **more: int) -> None:
    """One line."""
    line: dict[str, Any] = {"asked": asked, "what": what, "pid": os.getpid(), **more}
    file = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)
