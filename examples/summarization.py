"""Summarization: old messages of a long conversation are replaced by a summary that a cheap model writes."""

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.chat_models import init_chat_model

graph = create_agent(
    "anthropic:claude-sonnet-5",
    middleware=[
        SummarizationMiddleware(
            # The tag keeps the summary's text out of the stream of the answer.
            init_chat_model("anthropic:claude-haiku-4-5", tags=["nostream"]),
            trigger=("tokens", 20_000),
            # What is kept must be far below the trigger, else every call summarizes again.
            keep=("tokens", 5_000),
            # By default the writer sees the last 4000 tokens only, and the rest is forgotten.
            trim_tokens_to_summarize=None,
        )
    ],
)
