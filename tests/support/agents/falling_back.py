"""The built-in assistant with a model of another provider that takes over. Reads OPENAI_BASE_URL too."""

import os
from datetime import timedelta

from roadworthy.agents.assistant import AssistantConfig, build
from roadworthy.agents.retry import RetryPolicy

os.environ.setdefault("ANTHROPIC_API_KEY", "test")
os.environ.setdefault("OPENAI_API_KEY", "test")
graph = build(
    AssistantConfig(
        model="anthropic:claude-sonnet-4-5",
        base_url=os.environ["PROVIDER_URL"],
        fallback_model="openai:gpt-5",
        retry=RetryPolicy(first_wait=timedelta(milliseconds=10)),
    )
)
