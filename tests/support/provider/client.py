"""The official client, pointed at the fake provider: without retries, so that each fault is seen as it is."""

from langchain_anthropic import ChatAnthropic
from pydantic import SecretStr

MODEL = "claude-sonnet-5"


def claude(
    url: str,
    *,
    model: str = MODEL,
    key: str = "test",
    max_tokens: int = 1000,
    thinking: bool = False,
    streaming: bool = False,
    timeout_seconds: float = 10,
) -> ChatAnthropic:
    """A `ChatAnthropic` for the provider at `url`."""
    model_client = ChatAnthropic(
        model_name=model,
        base_url=url,
        api_key=SecretStr(key),
        max_retries=0,
        timeout=timeout_seconds,
        max_tokens_to_sample=max_tokens,
        thinking={"type": "enabled", "budget_tokens": 1024} if thinking else None,
        stop=None,
    )
    # Only ever set when true: a `streaming=False` that was given makes LangChain's `astream` not stream either.
    return model_client.model_copy(update={"streaming": True}) if streaming else model_client
