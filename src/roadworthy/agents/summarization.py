"""Keeps long conversations affordable: old messages are replaced by a summary that a (cheaper) model writes.

LangChain's own middleware, told what a server needs. ``assistant`` puts it in when a summary model is configured.
"""

import logging
from typing import Any

from langchain.agents.middleware import AgentState, SummarizationMiddleware
from langchain_core.language_models import BaseChatModel
from langgraph.runtime import Runtime
from tenacity import RetryCallState

from roadworthy.agents.retry import Patience, RetryPolicy, failure

_log = logging.getLogger(__name__)

# What is left of a summarized conversation must be far below the threshold, else every call would summarize again:
# LangChain's default of 20 messages may be more than the threshold when tools return much.
_KEPT_PART = 4


class Summarization(SummarizationMiddleware[Any, Any]):
    """Summarizes from ``after_tokens`` on and keeps a quarter of them word for word.

    ``model`` is the agent's own, by whose count a conversation is long; ``writer`` writes the summary. When the writer
    is overloaded or cannot be reached, the conversation goes on unshortened: a dear answer is better than none.
    """

    def __init__(self, model: BaseChatModel, *, writer: BaseChatModel, after_tokens: int, retry: RetryPolicy) -> None:
        super().__init__(
            model,
            trigger=("tokens", after_tokens),
            keep=("tokens", max(1, after_tokens // _KEPT_PART)),
            # The default would show the writer the last 4000 tokens only, and forget the rest for good.
            trim_tokens_to_summarize=None,
            summarizer=writer,
        )
        # The default tries everything again, with seconds between: a stop of the run too.
        self._summary_model = writer
        self._patience = Patience(retry, given_up=_go_on)

    def before_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Summarize what is too long.

        Raises:
            Exception: the writer refused for good, or the run is being stopped.
        """
        return self._patience.retrying()(super().before_model, state, runtime)

    async def abefore_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Summarize what is too long.

        Raises:
            Exception: the writer refused for good, or the run is being stopped.
        """
        return await self._patience.async_retrying()(super().abefore_model, state, runtime)


def _go_on(state: RetryCallState) -> None:
    """Leave the conversation as it is; the next call tries again."""
    # The class only: a provider's message may quote the prompt.
    _log.warning("no summary, because of %s: the conversation goes on in full", type(failure(state)).__name__)
