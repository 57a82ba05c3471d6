"""Tool effects: a call that a crash cuts off takes effect once, or a human is asked what became of it."""

import sqlite3
from datetime import date
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool


@tool
def weekday(day: str) -> str:
    """Say which day of the week a date such as 2026-01-31 is."""
    return f"{date.fromisoformat(day):%A}"


@tool
def book(table: int, config: RunnableConfig) -> str:
    """Book a table."""
    key = config.get("configurable", {}).get("idempotency_key")
    with sqlite3.connect("bookings.db") as bookings:
        bookings.execute("CREATE TABLE IF NOT EXISTS bookings (key TEXT UNIQUE, place INTEGER)")
        bookings.execute("INSERT OR IGNORE INTO bookings VALUES (?, ?)", (key, table))
    return f"Table {table} is booked."


@tool
def send_letter(text: str) -> str:
    """Send a letter."""
    with Path("letters.txt").open("a", encoding="utf-8") as letters:
        letters.write(f"{text}\n")
    return "The letter is on its way."


weekday.metadata = {"effect": "pure"}
book.metadata = {"effect": "idempotent"}
send_letter.metadata = {"effect": "once"}

graph = create_agent("anthropic:claude-sonnet-5", [weekday, book, send_letter])
