"""The built-in agent with a real model: LangChain's agent loop, web search with a key, retries and prompt caching.

``bootstrap`` builds it once at start, when a provider is configured, from an ``AssistantConfig``. Provider and search
clients read their own keys from the environment. ``retry`` repeats failed calls; ``models`` judges model ids.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware
from langchain.agents.middleware.types import AgentState, InputAgentState, OutputAgentState
from langchain.chat_models import init_chat_model
from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph

from roadworthy.agents.models import DEFAULT_MODEL
from roadworthy.agents.retry import ProviderRetry, RetryPolicy

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

    ``model`` and ``fallback_model`` are ``provider:model`` for any provider of ``init_chat_model``; ``base_url`` goes
    to ``model``, and to a fallback of the same provider. ``tavily`` adds web search (its client reads
    ``TAVILY_API_KEY``). ``system_prompt`` None: the built-in one.
    """

    model: str = DEFAULT_MODEL
    base_url: str | None = None
    fallback_model: str | None = None
    system_prompt: str | None = None
    tavily: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def build(config: AssistantConfig) -> AssistantGraph:
    """Build the assistant. Opens no connection.

    Raises:
        ImportError: the provider's LangChain package is not installed.
        ValueError: the provider is unknown, or a key that its client insists on is missing.
    """
    return create_agent(
        _chat_model(config.model, base_url=config.base_url),
        _tools(config),
        system_prompt=config.system_prompt or _prompt(config),
        middleware=_middleware(config),
        name="assistant",
    )


def _middleware(config: AssistantConfig) -> list[AgentMiddleware[Any, Any, Any]]:
    """Outermost first: the fallback takes over when retries gave up; caching looks at the model really called."""
    inner: list[AgentMiddleware[Any, Any, Any]] = [
        ProviderRetry(config.retry),
        AnthropicPromptCachingMiddleware(unsupported_model_behavior="ignore"),
    ]
    if config.fallback_model is None:
        return inner
    same_provider = _provider(config.fallback_model) == _provider(config.model)
    fallback = _chat_model(config.fallback_model, base_url=config.base_url if same_provider else None)
    return [ModelFallbackMiddleware(fallback), *inner]


def _chat_model(model: str, *, base_url: str | None) -> BaseChatModel:
    # The client's own retries would multiply ours, and sleep through a whole `retry-after`.
    if base_url is None:
        return init_chat_model(model, max_retries=0)
    return init_chat_model(model, max_retries=0, base_url=base_url)


def _tools(config: AssistantConfig) -> list[BaseTool]:
    if not config.tavily:
        return []
    from langchain_tavily import TavilySearch  # slow to import, and needed with a key only

    return [TavilySearch(max_results=_SEARCH_RESULTS)]


def _prompt(config: AssistantConfig) -> str:
    return f"{_PROMPT} {_SEARCH_PROMPT}" if config.tavily else _PROMPT


def _provider(model: str) -> str:
    return model.partition(":")[0]
