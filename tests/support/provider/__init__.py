"""A fake Anthropic Messages API over HTTP, with its own ledger of what would have been billed.

Tests use `fake.FakeProvider` (own thread) or `process.ProviderProcess` (own process, outlives a killed server).
Inside: `server` routes a request, `messages` checks it, `playbook` chooses the `script.Turn`, `rendering` turns it
into events, `playing` sends them (or plays the fault) through an `answers.Answer`, `ledger` writes it all down.
"""
