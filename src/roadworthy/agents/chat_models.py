"""Builds the chat models that the ``assistant`` asks, of any provider of ``init_chat_model``."""

from collections.abc import Sequence

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel


def chat_model(model: str, *, base_url: str | None = None, tags: Sequence[str] = ()) -> BaseChatModel:
    """Build the model ``provider:model``. ``tags`` go with every call of it. Opens no connection.

    Raises:
        ImportError: the provider's LangChain package is not installed.
        ValueError: the provider is unknown, or a key that its client insists on is missing.
    """
    made = _made(model, base_url)
    changes: dict[str, object] = {"tags": [*tags]} if tags else {}
    # OpenAI's client, and those made of it, ask for a stream's usage only when told to, above all with a base URL.
    if "stream_usage" in type(made).model_fields:
        changes["stream_usage"] = True
    return made.model_copy(update=changes) if changes else made


def provider_of(model: str) -> str:
    """The provider in ``provider:model``."""
    return model.partition(":")[0]


def _made(model: str, base_url: str | None) -> BaseChatModel:
    # The client's own retries would multiply ours, and sleep through a whole `retry-after`.
    if base_url is None:
        return init_chat_model(model, max_retries=0)
    return init_chat_model(model, max_retries=0, base_url=base_url)
