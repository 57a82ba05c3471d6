"""Identifiers: how they look, and where new ones come from.

Used by every layer. Ids that a client may choose are checked here, once.
"""

import re
import uuid
from typing import NewType

from roadworthy.domain.errors import InvalidRequest

RunId = NewType("RunId", str)
ThreadId = NewType("ThreadId", str)
AgentName = NewType("AgentName", str)
TenantId = NewType("TenantId", str)
UserId = NewType("UserId", str)
KeyId = NewType("KeyId", str)
BudgetId = NewType("BudgetId", str)


_THREAD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9._:@|+-]{1,128}")
_AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_ID = re.compile(r"[0-9A-Za-z]{12}|given-[0-9a-f]{12}")


def parse_thread_id(text: str) -> ThreadId:
    """Check a thread id chosen by a client.

    Raises:
        InvalidRequest: it is not 1 to 128 characters of ``A-Za-z0-9._:-``.
    """
    if not _THREAD_ID.fullmatch(text):
        raise InvalidRequest("thread_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    return ThreadId(text)


def parse_run_id(text: str) -> RunId | None:
    """A run id as the server makes them (32 hex digits), or None for anything else: such a run cannot exist."""
    return RunId(text) if _RUN_ID.fullmatch(text) else None


def parse_user_id(text: str) -> UserId:
    """Check a user name given by an operator or by a backend on behalf of its user.

    Raises:
        InvalidRequest: it is not 1 to 128 characters of ``A-Za-z0-9._:@|+-``.
    """
    if not _NAME.fullmatch(text):
        raise InvalidRequest("a user must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ | + -")
    return UserId(text)


def parse_tenant_id(text: str) -> TenantId:
    """Check a tenant name. Same alphabet as a user's.

    Raises:
        InvalidRequest: as for ``parse_user_id``.
    """
    if not _NAME.fullmatch(text):
        raise InvalidRequest("a tenant must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ | + -")
    return TenantId(text)


def parse_agent_name(text: str) -> AgentName:
    """Check the slug under which an agent is served.

    Raises:
        InvalidRequest: it is not 1 to 64 characters of ``A-Za-z0-9._-`` starting with a letter or digit.
    """
    if not _AGENT_NAME.fullmatch(text):
        raise InvalidRequest("an agent's name must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return AgentName(text)


def parse_key_id(text: str) -> KeyId:
    """Check the id of an API key, which lists show; not the key itself.

    Raises:
        InvalidRequest: it is neither 12 letters and digits nor the id of a given admin key.
    """
    if not _KEY_ID.fullmatch(text):
        raise InvalidRequest("a key's id is 12 letters and digits, as `roadworthy keys list` shows it")
    return KeyId(text)


def new_id() -> str:
    """A random identifier of 32 hex digits, for runs, threads, requests and messages."""
    return uuid.uuid4().hex
