"""The only composition root: settings → adapters → services → engine, as one async context.

Called by ``cli``; ``app.py`` puts the HTTP side on top of what is yielded here.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from roadworthy.domain.errors import ConfigError, StorageUnavailable
from roadworthy.domain.ids import new_id
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.heartbeat import Watchdog
from roadworthy.engine.reaper import reap_orphans
from roadworthy.engine.worker import Worker, WorkerLimits
from roadworthy.ports.runtime import AgentRuntime, Caps
from roadworthy.ports.telemetry import Telemetry
from roadworthy.runtimes.langgraph.loader import LoadedAgent
from roadworthy.services.admission import Admission
from roadworthy.services.agents import Agents
from roadworthy.services.keys import Keys, NewKey
from roadworthy.services.readiness import Readiness
from roadworthy.services.runs import Runs
from roadworthy.services.streams import Streams
from roadworthy.services.threads import Threads
from roadworthy.settings import Settings
