"""LangChain's global cache, as the way of model calls to and from the attempt's journal.

LangChain asks it before each call that is not a stream, and hands it each complete answer; that is all it can do, and
why is in ``docs/adr/0013-responses-are-journalled-in-the-cache-hook.md``. ``runtime`` installs it, ``run`` again when
somebody has put another cache in its place. A cache that was there before is asked after the journal, and filled.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.outputs import ChatGeneration, Generation

from roadworthy.runtimes.langgraph.journal import attempt_journal
from roadworthy.runtimes.langgraph.metering import attempt_meter
from roadworthy.runtimes.langgraph.model_calls import OpenCall, answered_call, asking_call
from roadworthy.runtimes.langgraph.stop_fields import is_cut


class JournalCache(BaseCache):
    """See the module. Keeps nothing itself. ``delegate``: the user's own cache."""

    def __init__(self, delegate: BaseCache | None) -> None:
        self.delegate = delegate

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """See ``BaseCache``.

        Raises:
            AttemptStopped: the call must be bought, and may not.
        """
        call = _asks(prompt, llm_string)
        if call is not None and call.replay is not None:
            return list(call.replay.answers)
        if self.delegate is not None and (found := self.delegate.lookup(prompt, llm_string)) is not None:
            return _cached(call, found)
        if call is not None and call.expected and (meter := attempt_meter.get()) is not None:
            meter.buy(call)
        return None

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As ``lookup``."""
        call = _asks(prompt, llm_string)
        if call is not None and call.replay is not None:
            return list(call.replay.answers)
        if self.delegate is not None and (found := await self.delegate.alookup(prompt, llm_string)) is not None:
            return _cached(call, found)
        if call is not None and call.expected and (meter := attempt_meter.get()) is not None:
            await meter.buys(call)
        return None

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """See ``BaseCache``. What the provider cut off is kept nowhere."""
        call = answered_call((prompt, llm_string))
        if call is not None:
            if _is_cut(call, return_val):
                return
            _keep(call, return_val)
        if self.delegate is not None:
            self.delegate.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As ``update``."""
        call = answered_call((prompt, llm_string))
        if call is not None:
            if _is_cut(call, return_val):
                return
            await _keep_soon(call, return_val)
        if self.delegate is not None:
            await self.delegate.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: object) -> None:
        """Clear the user's own cache: the journal is not theirs to clear."""
        if self.delegate is not None:
            self.delegate.clear(**kwargs)

    async def aclear(self, **kwargs: object) -> None:
        """As ``clear``."""
        if self.delegate is not None:
            await self.delegate.aclear(**kwargs)


def install_journal() -> None:
    """Put the journal in front of the global cache, whatever that is."""
    current = get_llm_cache()
    if not isinstance(current, JournalCache):
        set_llm_cache(JournalCache(current))


@contextmanager
def installed_journal() -> Generator[None]:
    """The journal is in front of the global cache."""
    install_journal()
    try:
        yield
    finally:
        current = get_llm_cache()
        if isinstance(current, JournalCache):
            set_llm_cache(current.delegate)


def _asks(prompt: str, llm_string: str) -> OpenCall | None:
    """The call that asks, with its replay if there is one; None outside of an attempt."""
    journal, call = attempt_journal.get(), asking_call()
    if journal is None or call is None:
        return None
    call.question = (prompt, llm_string)
    call.asked = journal.asked(prompt, llm_string)
    if call.asked is not None:
        call.replay = journal.find(call.asked)
    return call


def _cached(call: OpenCall | None, found: RETURN_VAL_TYPE) -> RETURN_VAL_TYPE:
    if call is not None:
        call.cached = True
    return found


def _is_cut(call: OpenCall, found: Sequence[Generation]) -> bool:
    return any(isinstance(one, ChatGeneration) and is_cut(one.message, call.provider) for one in found)


def _keep(call: OpenCall, found: Sequence[Generation]) -> None:
    journal, answers = attempt_journal.get(), _answers(found)
    # On the loop's own thread nobody can wait for the database.
    if journal is None or call.asked is None or not answers or journal.on_its_loop or journal.loop.is_closed():
        return
    call.kept = asyncio.run_coroutine_threadsafe(journal.keep(call.asked, call, answers), journal.loop).result()


async def _keep_soon(call: OpenCall, found: Sequence[Generation]) -> None:
    journal, answers = attempt_journal.get(), _answers(found)
    if journal is None or call.asked is None or not answers or journal.loop.is_closed():
        return
    keeping = journal.keep(call.asked, call, answers)
    if journal.on_its_loop:
        call.kept = await keeping
    else:  # as in ``asyncio.run`` in a tool's thread
        call.kept = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(keeping, journal.loop))


def _answers(found: Sequence[Generation]) -> Sequence[ChatGeneration]:
    return [one for one in found if isinstance(one, ChatGeneration)]
