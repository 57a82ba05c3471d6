"""`create_agent` over the real `ChatAnthropic` and the fake provider, with tools that leave traces.

Reads PROVIDER_URL, EFFECTS (a file) and GATES (a folder; a tool that must wait does so until its gate file exists).
"""

import asyncio
import os
from pathlib import Path
from time import sleep

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langgraph.types import interrupt
from pydantic import SecretStr

from tests.support.effects import EffectLog

_POLL = 0.01


def effects() -> EffectLog:
    """The log shared with the test."""
    return EffectLog(Path(os.environ["EFFECTS"]))


def model() -> ChatAnthropic:
    """The real client, without retries of its own."""
    return ChatAnthropic(
        model_name="claude-sonnet-4-5",
        base_url=os.environ["PROVIDER_URL"],
        api_key=SecretStr("test"),
        max_retries=0,
        timeout=60,
        stop=None,
    )


@tool
def note(text: str) -> str:
    """Write a note."""
    effects().record("note", text)
    return f"noted {text}"


@tool
async def slow_note(text: str) -> str:
    """Write a note once its gate is open."""
    effects().record("slow_note", text, "begin")
    while not (Path(os.environ["GATES"]) / text).exists():  # noqa: ASYNC110 -- opened by another process
        await asyncio.sleep(_POLL)
    effects().record("slow_note", text)
    return f"noted {text}"


@tool
def blocking_note(text: str) -> str:
    """Write a note once its gate is open, holding a thread meanwhile."""
    effects().record("blocking_note", text, "begin")
    while not (Path(os.environ["GATES"]) / text).exists():
        sleep(_POLL)
    effects().record("blocking_note", text)
    return f"noted {text}"


@tool
def late_note(text: str) -> str:
    """Write a note at once, then wait for its gate."""
    effects().record("late_note", text)
    while not (Path(os.environ["GATES"]) / text).exists():
        sleep(_POLL)
    return f"noted {text}"


@tool
def broken(text: str) -> str:
    """Fail."""
    raise RuntimeError(f"secret detail about {text}")


@tool
def huge(size: int) -> str:
    """Answer with very much text."""
    return "x" * size


@tool
def die(text: str) -> str:
    """End the whole server process."""
    effects().record("die", text)
    os.kill(os.getpid(), 9)
    return text


@tool
async def die_later(text: str) -> str:
    """End the whole server process, each time once its next gate is open: `text-1`, `text-2`, …"""
    gate = f"{text}-{effects().count('die_later', phase='effect') + 1}"
    while not (Path(os.environ["GATES"]) / gate).exists():  # noqa: ASYNC110 -- opened by another process
        await asyncio.sleep(_POLL)
    effects().record("die_later", text)
    os.kill(os.getpid(), 9)
    return text


@tool
def ask(question: str) -> str:
    """Ask the human."""
    answer = interrupt({"question": question})
    effects().record("ask", f"{question}={answer}")
    return str(answer)


graph = create_agent(
    model(),
    [note, slow_note, blocking_note, late_note, broken, huge, die, die_later, ask],
    system_prompt="You are under test.",
)
