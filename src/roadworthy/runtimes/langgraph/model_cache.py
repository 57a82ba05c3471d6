"""LangChain's global cache, as the way by which answers from the journal get into the graph.

A cache is all that can answer a call instead of the model. It costs: LangChain writes the whole prompt for it. So it
is in place only while an attempt has answers to give, or where the user has set a cache, which it asks and fills.
Why it is done so: ``docs/adr/0013-responses-are-journalled-when-they-end.md``.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from threading import Lock

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import ChatGeneration, Generation

from roadworthy.runtimes.langgraph.model_calls import OpenCall, answered_call, asking_call
from roadworthy.runtimes.langgraph.stop_fields import is_cut

# From a model's start callback to the model.
_FRAMES = 12
_BY_CODE = {
    BaseChatModel.generate.__code__: True,
    BaseChatModel.agenerate.__code__: True,
    BaseChatModel.stream.__code__: False,
    BaseChatModel.astream.__code__: False,
}


class JournalCache(BaseCache):
    """See the module. Keeps nothing itself. ``delegate``: the user's own cache."""

    def __init__(self, delegate: BaseCache | None) -> None:
        self.delegate = delegate

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """See ``BaseCache``."""
        call = _asking(prompt, llm_string)
        if call is not None and call.replay is not None:
            return _replayed(call)
        if self.delegate is not None and (found := self.delegate.lookup(prompt, llm_string)) is not None:
            return _cached(call, found)
        return None

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As ``lookup``."""
        call = _asking(prompt, llm_string)
        if call is not None and call.replay is not None:
            return _replayed(call)
        if self.delegate is not None and (found := await self.delegate.alookup(prompt, llm_string)) is not None:
            return _cached(call, found)
        return None

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """See ``BaseCache``. What the provider cut off is kept nowhere."""
        if self.delegate is not None and not _is_cut(answered_call((prompt, llm_string)), return_val):
            self.delegate.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As ``update``."""
        if self.delegate is not None and not _is_cut(answered_call((prompt, llm_string)), return_val):
            await self.delegate.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: object) -> None:
        """Clear the user's own cache: the journal is not theirs to clear."""
        if self.delegate is not None:
            self.delegate.clear(**kwargs)

    async def aclear(self, **kwargs: object) -> None:
        """As ``clear``."""
        if self.delegate is not None:
            await self.delegate.aclear(**kwargs)


class Hook:
    """Puts a ``JournalCache`` in front of the global cache while somebody needs it there. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._needed = 0

    @contextmanager
    def placed(self, *, needed: bool) -> Generator[None]:
        """It is there if it is ``needed``, or if the user has set a cache. Asked again for each attempt: a user may
        set one at any time.
        """
        with self._lock:
            self._needed += needed
            current = get_llm_cache()
            if not isinstance(current, JournalCache) and (needed or current is not None):
                set_llm_cache(JournalCache(current))
        try:
            yield
        finally:
            with self._lock:
                self._needed -= needed
                if not self._needed:
                    self._lift(only_if_idle=True)

    def lift(self) -> None:
        """Take it away: the user's cache is what it was."""
        with self._lock:
            self._lift(only_if_idle=False)

    def _lift(self, *, only_if_idle: bool) -> None:
        current = get_llm_cache()
        if isinstance(current, JournalCache) and not (only_if_idle and current.delegate is not None):
            set_llm_cache(current.delegate)


def asks_cache() -> bool:
    """Whether the model whose start callback asks this will look into the global cache.

    LangChain does not say. It knows best: streams ask none, and a model may have one of its own, or want none.
    """
    frame = sys._getframe(1)  # noqa: SLF001 -- documented, for CPython  # pyright: ignore[reportPrivateUsage]
    for _ in range(_FRAMES):
        if (asks := _BY_CODE.get(frame.f_code)) is not None:
            return asks and _has_no_own(frame.f_locals.get("self"))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def _has_no_own(model: object) -> bool:
    cache = getattr(model, "cache", None)
    return cache is None or cache is True


def hook_is_placed() -> bool:
    """Whether an answer would get into the graph: the user may have set another cache meanwhile."""
    return isinstance(get_llm_cache(), JournalCache)


def _asking(prompt: str, llm_string: str) -> OpenCall | None:
    """The call that asks; None outside of an attempt."""
    call = asking_call()
    if call is not None:
        call.question = (prompt, llm_string)
    return call


def _replayed(call: OpenCall) -> RETURN_VAL_TYPE | None:
    call.delivered = True
    return None if call.replay is None else list(call.replay.answers)


def _cached(call: OpenCall | None, found: RETURN_VAL_TYPE) -> RETURN_VAL_TYPE:
    if call is not None:
        call.cached = True
    return found


def _is_cut(call: OpenCall | None, found: Sequence[Generation]) -> bool:
    return call is not None and any(
        isinstance(one, ChatGeneration) and is_cut(one.message, call.provider) for one in found
    )
