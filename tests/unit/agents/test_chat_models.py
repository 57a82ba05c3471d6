"""The assistant's models: no retries of their own, usage asked for where it has to be, tags on every call."""

from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import FakeListChatModel
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from roadworthy.agents import chat_models
from roadworthy.agents.chat_models import chat_model, provider_of


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_VERSION", "2026-01-01")


@pytest.mark.parametrize("base_url", [None, "http://127.0.0.1:9/v1"])
def test_openai_is_asked_for_the_usage_of_streams(base_url: str | None) -> None:
    model = chat_model("openai:gpt-5-mini", base_url=base_url)
    assert isinstance(model, ChatOpenAI)
    assert (model.stream_usage, model.max_retries) == (True, 0)


def test_azure_is_asked_too() -> None:
    model = chat_model("azure_openai:gpt-5-mini")
    assert isinstance(model, AzureChatOpenAI)
    assert (model.stream_usage, model.max_retries) == (True, 0)


def test_anthropic_tells_usage_as_ever() -> None:
    model = chat_model("anthropic:claude-sonnet-5", base_url="http://127.0.0.1:9", tags=["nostream"])
    assert isinstance(model, ChatAnthropic)
    assert (model.stream_usage, model.max_retries, model.tags) == (True, 0, ["nostream"])
    assert model.anthropic_api_url == "http://127.0.0.1:9"


def test_a_model_without_such_a_switch_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeListChatModel(responses=["hi"])

    def make(_model: str, **_options: Any) -> FakeListChatModel:
        return made

    monkeypatch.setattr(chat_models, "init_chat_model", make)
    assert chat_model("other:model") is made


def test_the_provider_is_what_comes_before_the_colon() -> None:
    assert provider_of("openai:ft:gpt-5:me") == "openai"
