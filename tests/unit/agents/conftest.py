"""A small docs folder, shaped like the shipped one, for the demo agent's tests."""

from pathlib import Path

import pytest

_PAGES = {
    "README.md": """
# Roadworthy

<!-- a comment nobody should be quoted -->
[![build](badge.svg)](https://example.org)

Serve any LangGraph agent to real users: durable, cancellable, with a bill you control.

## Two commands

```bash
# this is code, not a heading
make run
```
""",
    "docs/http-api.md": """
# HTTP API

## Start a run

`POST /agent/invoke` runs the agent on a thread and returns the run.

## Cancel a run

`POST /agent/runs/{run_id}/cancel` stops a run and closes the provider's connection. It answers 202 within a second.

```bash
curl -X POST http://127.0.0.1:8000/agent/runs/$RUN/cancel -H "Authorization: Bearer $KEY"
```

## Errors

Every error is a [problem document](errors.md) with a stable `code`.
""",
    "docs/configuration.md": """
# Configuration

## Server

| name | default | meaning |
| --- | --- | --- |
| `ROADWORTHY_HOST` | 127.0.0.1 | address to listen on |
| `ROADWORTHY_PORT` | 8000 | port to listen on |
"""
    + "".join(f"| `ROADWORTHY_OPTION_{n}` | {n} | one of many, so that the table is long |\n" for n in range(60)),
    "docs/operations.md": """
# Operations

## Keys

Authentication is on by default. The first start makes an admin key and prints it once; send it as
`Authorization: Bearer` or `x-api-key`.

## After a crash

A run that was going when the server was killed goes on within 10 seconds of a restart, from its last checkpoint.
""",
    "docs/tour.md": """
# A tour of the code

## A run

A run is claimed by a worker, which may be told to cancel it.
""",
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Write the pages below a fresh folder and return it."""
    for name, text in _PAGES.items():
        page = tmp_path / name
        page.parent.mkdir(exist_ok=True)
        page.write_text(text, encoding="utf-8")
    return tmp_path
