"""What newcomers ask, over the docs as they are shipped: the section that answers is the one that is quoted."""

import json
import re
from dataclasses import asdict

import pytest

from roadworthy.agents.answer import answer
from roadworthy.agents.docs_index import DocsIndex, find_docs

_GETTING_STARTED = "docs/getting-started.md"
_AGENTS = "docs/agents.md"
_HTTP = "docs/http-api.md"
_OPERATIONS = "docs/operations.md"
_LEVERS = "docs/cost-levers.md"
_TOOLS = "docs/tools.md"

# The question, the page, and a part of the anchor (headings may grow).
_QUESTIONS = [
    ("What is Roadworthy?", "README.md", "roadworthy"),
    ("What can Roadworthy not do?", "README.md", "does-not-do"),
    ("What can't you do?", "README.md", "does-not-do"),
    ("What license does it have?", "README.md", "license"),
    ("Is it open source?", "README.md", "license"),
    ("What is a thread?", _GETTING_STARTED, "what-is-a-thread"),
    ("What is a run?", _GETTING_STARTED, "what-is-a-run"),
    ("What is an agent?", _GETTING_STARTED, "what-is-an-agent"),
    ("How do I install it?", _GETTING_STARTED, "install"),
    ("Does it work on Windows?", _GETTING_STARTED, "install"),
    ("What Python versions are supported?", _GETTING_STARTED, "install"),
    ("How do I change the port?", _GETTING_STARTED, "install"),
    ("How do I make an API key?", _GETTING_STARTED, "api-key"),
    ("How do I use OpenAI models?", _GETTING_STARTED, "real-model"),
    ("Can I use Claude?", _GETTING_STARTED, "real-model"),
    ("Can I use Ollama?", _GETTING_STARTED, "real-model"),
    ("What is langgraph.json for?", _AGENTS, "langgraphjson"),
    ("How long does a run take at most?", _AGENTS, "limits"),
    ("How do interrupts work?", _AGENTS, "interrupts"),
    ("How does the idempotency key work?", _HTTP, "idempotency-key"),
    ("How do I retry a request safely?", _HTTP, "idempotency-key"),
    ("How does authentication work?", "docs/authentication.md", "authentication"),
    ("Does it support OIDC?", "docs/authentication.md", "single-sign-on"),
    ("What does each scope allow?", "docs/authentication.md", "scope"),
    ("What happens if my client disconnects?", _HTTP, "client-disconnects"),
    ("Can two messages run at once in a thread?", _HTTP, "two-messages"),
    ("What is the price of a run?", _HTTP, "cost"),
    ("How much does a run cost?", _HTTP, "cost"),
    ("How do I give a model a price?", "docs/prices.md", "give-a-model-a-price"),
    ("Where do prices come from?", "docs/prices.md", "prices-come-from"),
    ("How do I set a budget?", "docs/budgets.md", "set-a-budget"),
    ("How do I raise a budget?", "docs/budgets.md", "raise-a-budget"),
    ("How do I make an agent cheaper?", _LEVERS, "cost-levers"),
    ("How does prompt caching work?", _LEVERS, "prompt-caching"),
    ("Can it summarize long conversations?", _LEVERS, "summarization"),
    ("Use it from Python?", _HTTP, "from-python"),
    ("Is there a Python client?", _HTTP, "from-python"),
    ("How do I reconnect to a stream?", _HTTP, "reconnect"),
    ("Which events does a stream have?", _HTTP, "which-events"),
    ("What does the error thread_busy mean?", _HTTP, "error-codes"),
    ("How do I continue a conversation?", _HTTP, "continue-a-conversation"),
    ("How do I delete a thread?", _HTTP, "delete-threads"),
    ("How do I send an image?", _HTTP, "images"),
    ("How do I call it from the browser?", _HTTP, "browser"),
    ("How do I cancel a run?", _OPERATIONS, "cancel-a-run"),
    ("What happens to a run when the server crashes?", _OPERATIONS, "after-a-crash"),
    ("What does needs_review mean?", _OPERATIONS, "needs_review"),
    ("How do I resolve a review?", _HTTP, "review"),
    ("How does a tool read its idempotency key?", _TOOLS, "idempotency-key"),
    ("Does a tool run again after a crash?", _TOOLS, "again-after-a-crash"),
    ("How do I declare that a tool runs once?", _TOOLS, "only-once"),
    ("How do I erase a user?", _OPERATIONS, "erase-a-user"),
    ("How long is data kept?", _OPERATIONS, "how-long-is-data-kept"),
    ("How do I make backups?", _OPERATIONS, "backup"),
    ("How do I back up my data?", _OPERATIONS, "backup"),
    ("backup", _OPERATIONS, "backup"),
    ("Does it support Postgres?", _OPERATIONS, "postgres-as-the-database"),
    ("What are the limitations?", _OPERATIONS, "limitations"),
    ("Is there a web interface?", _OPERATIONS, "web-interface"),
    ("HTTPS in production?", _OPERATIONS, "https"),
    ("Is there a Docker image?", _OPERATIONS, "docker"),
    ("How do I put it behind nginx?", _OPERATIONS, "https"),
    ("How do I upgrade?", _OPERATIONS, "upgrade"),
    ("How do I revoke a key?", _OPERATIONS, "revoke"),
    ("How do I turn authentication off?", _OPERATIONS, "without-keys"),
    ("How do I see the logs?", _OPERATIONS, "logs"),
    ("How many runs at once?", _OPERATIONS, "how-many-runs"),
    ("What are the exit codes?", _OPERATIONS, "exit-codes"),
]


@pytest.fixture(scope="module")
def index() -> DocsIndex:
    """The shipped docs, read once."""
    return DocsIndex(find_docs())


def _ask(index: DocsIndex, question: str) -> str:
    return answer(question, [json.dumps([asdict(passage) for passage in index.search(question)])])


@pytest.mark.parametrize(("question", "page", "section"), _QUESTIONS, ids=[question for question, _, _ in _QUESTIONS])
def test_a_newcomers_question_is_answered_from_the_section_about_it(
    index: DocsIndex, question: str, page: str, section: str
) -> None:
    source = re.search(r"^Source: (\S+)#(\S+)$", _ask(index, question), re.MULTILINE)
    assert source is not None
    assert source[1] == page
    assert section in source[2]


def test_an_example_in_python_is_quoted_with_its_code(index: DocsIndex) -> None:
    for question in ("Use it from Python?", "How do I stream from Python?"):
        assert "```python" in _ask(index, question)
