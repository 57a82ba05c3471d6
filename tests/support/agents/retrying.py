"""The built-in assistant, which retries, pointed at the fake provider."""

import os

from roadworthy.agents.assistant import AssistantConfig, build

os.environ.setdefault("ANTHROPIC_API_KEY", "test")
graph = build(AssistantConfig(model="anthropic:claude-sonnet-4-5", base_url=os.environ["PROVIDER_URL"]))
