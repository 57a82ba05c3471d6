"""Retry: a call that failed for a passing reason is made again, a bounded number of times."""

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain.chat_models import init_chat_model

graph = create_agent(
    # The client's own retries would multiply these.
    init_chat_model("anthropic:claude-sonnet-5", max_retries=0),
    middleware=[
        # By default a failure becomes an answer with the error's text in it, and the run a success.
        ModelRetryMiddleware(max_retries=2, initial_delay=0.5, backoff_factor=2, max_delay=10, on_failure="error")
    ],
)
