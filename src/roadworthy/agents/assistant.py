"""The built-in agent with a real model: LangChain's agent loop, web search with a key, retries, and levers on its cost.

``bootstrap`` builds it once at start, when a provider is configured, from an ``AssistantConfig``. Provider and search
clients read their own keys from the environment. ``chat_models`` makes the models; ``retry``, ``cheap_model`` and
``summarization`` are its middleware beside LangChain's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelCallLimitMiddleware, ModelFallbackMiddleware
from langchain.agents.middleware.types import AgentState, InputAgentState, OutputAgentState
from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langgraph.constants import TAG_NOSTREAM
from langgraph.graph.state import CompiledStateGraph

from roadworthy.agents.chat_models import chat_model, provider_of
from roadworthy.agents.cheap_model import CheapModel
from roadworthy.agents.models import DEFAULT_MODEL
from roadworthy.agents.retry import ProviderRetry, RetryPolicy
from roadworthy.agents.summarization import Summarization

# LangChain's own annotation of what `create_agent` returns, `Any` included.
AssistantGraph: TypeAlias = CompiledStateGraph[AgentState[Any], None, InputAgentState, OutputAgentState[Any]]

_PROMPT = (
    "You are a helpful assistant. Answer in the language of the question, directly and no longer than needed. "
    "Say so when you do not know."
)
_SEARCH_PROMPT = (
    "Search the web for anything recent or anything you are not sure of, "
    "and name the pages you relied on with their links."
)
_SEARCH_RESULTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantConfig:
    """What the operator may choose.

    Models are ``provider:model`` for any provider of ``init_chat_model``; ``base_url`` goes to ``model``, and to the
    others of the same provider. ``fallback_model`` answers when another failed for good. ``cheap_model`` answers for as
    long as every message of a thread has fewer characters than ``cheap_below_chars`` and no tool was needed.
    ``summary_model`` replaces old messages by a summary from ``summarize_after_tokens`` on. ``max_model_calls`` bounds
    one answer. ``tavily`` adds web search (its client reads ``TAVILY_API_KEY``). ``system_prompt`` None: the built-in
    one.
    """

    model: str = DEFAULT_MODEL
    base_url: str | None = None
    fallback_model: str | None = None
    cheap_model: str | None = None
    cheap_below_chars: int = 200
    summary_model: str | None = None
    summarize_after_tokens: int = 20_000
    max_model_calls: int | None = None
    system_prompt: str | None = None
    tavily: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def build(config: AssistantConfig) -> AssistantGraph:
    """Build the assistant. Opens no connection.

    Raises:
        ImportError: the LangChain package of a provider is not installed.
        ValueError: a provider is unknown, or a key that its client insists on is missing.
    """
    model = chat_model(config.model, base_url=config.base_url)
    return create_agent(
        model,
        _tools(config),
        system_prompt=config.system_prompt or _prompt(config),
        middleware=[*_before_each_call(config, model), *_around_each_call(config)],
        name="assistant",
    )


def _before_each_call(config: AssistantConfig, model: BaseChatModel) -> list[AgentMiddleware[Any, Any, Any]]:
    """In order: an answer that the limit ends must not pay for a summary first."""
    levers: list[AgentMiddleware[Any, Any, Any]] = []
    if config.max_model_calls is not None:
        levers.append(ModelCallLimitMiddleware(run_limit=config.max_model_calls))
    if config.summary_model is not None:
        # Its text is the conversation's business, not the answer.
        writer = _other_model(config, config.summary_model, tags=[TAG_NOSTREAM])
        levers.append(
            Summarization(model, writer=writer, after_tokens=config.summarize_after_tokens, retry=config.retry)
        )
    return levers


def _around_each_call(config: AssistantConfig) -> list[AgentMiddleware[Any, Any, Any]]:
    """Outermost first: the choice of the model comes before the fallback, which must have the last word on it and takes
    over when the retries gave up; caching is innermost, because it looks at the model really called.
    """
    levers: list[AgentMiddleware[Any, Any, Any]] = []
    if config.cheap_model is not None:
        cheap = _other_model(config, config.cheap_model)
        levers.append(CheapModel(cheap, below_chars=config.cheap_below_chars))
    if config.fallback_model is not None:
        levers.append(ModelFallbackMiddleware(_other_model(config, config.fallback_model)))
    return [
        *levers,
        ProviderRetry(config.retry),
        AnthropicPromptCachingMiddleware(unsupported_model_behavior="ignore"),
    ]


def _other_model(config: AssistantConfig, model: str, *, tags: Sequence[str] = ()) -> BaseChatModel:
    same_provider = provider_of(model) == provider_of(config.model)
    return chat_model(model, base_url=config.base_url if same_provider else None, tags=tags)


def _tools(config: AssistantConfig) -> list[BaseTool]:
    if not config.tavily:
        return []
    from langchain_tavily import TavilySearch  # slow to import, and needed with a key only

    return [TavilySearch(max_results=_SEARCH_RESULTS)]


def _prompt(config: AssistantConfig) -> str:
    return f"{_PROMPT} {_SEARCH_PROMPT}" if config.tavily else _PROMPT
