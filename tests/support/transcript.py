"""What a client of the plain API saw: every frame of its streams, across reconnects."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

Frame = dict[str, Any]


@dataclass(slots=True)
class Transcript:
    """Frames in the order of arrival. `last_id` is where a reconnect goes on."""

    frames: list[Frame] = field(default_factory=list[Frame])
    last_id: str | None = None

    @property
    def run_id(self) -> str:
        """Of the run that the first frame announced."""
        return str(self.frames[0]["run_id"])

    @property
    def done(self) -> Frame | None:
        """The last frame, if the run has ended."""
        return self.frames[-1] if self.frames and self.frames[-1]["type"] == "done" else None

    @property
    def ids(self) -> list[str]:
        """Ids of the frames that have one."""
        return [frame["id"] for frame in self.frames if "id" in frame]

    def of_type(self, kind: str) -> list[Frame]:
        """Frames of one type."""
        return [frame for frame in self.frames if frame["type"] == kind]

    def text(self) -> str:
        """What a user is left with: content, less what was retracted or did not survive an attempt."""
        return "".join(frame["content"] for frame in self._kept())

    def texts(self) -> dict[str, str]:
        """The same, by message."""
        found: dict[str, str] = {}
        for frame in self._kept():
            found[frame["message_id"]] = found.get(frame["message_id"], "") + frame["content"]
        return found

    def _kept(self) -> list[Frame]:
        kept: list[Frame] = []
        for frame in self.frames:
            if frame["type"] == "content":
                kept.append(frame)
            elif frame["type"] == "retract":
                kept = [one for one in kept if one["message_id"] != frame["message_id"]]
            elif frame["type"] == "attempt":
                kept = [one for one in kept if _position(one["id"]) <= _position(frame["last_valid"])]
        return kept

    async def read(self, response: httpx.Response) -> AsyncIterator[Frame]:
        """Take in a stream, frame by frame."""
        async for line in response.aiter_lines():
            if line.startswith("id:"):
                self.last_id = line[3:].strip()
            elif line.startswith("data:"):
                frame = json.loads(line[5:])
                self.frames.append(frame)
                yield frame


def text_of(message: Mapping[str, Any]) -> str:
    """The text of one of a thread's messages, whatever its form."""
    content: str | list[dict[str, Any]] = message["content"]
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _position(event_id: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-")) if event_id else (0,)


async def stream(client: httpx.AsyncClient, body: Frame, *, headers: dict[str, str] | None = None) -> Transcript:
    """POST /agent/stream to its end."""
    transcript = Transcript()
    async with client.stream("POST", "/agent/stream", json=body, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        async for _ in transcript.read(response):
            pass
    return transcript


async def stream_into(client: httpx.AsyncClient, body: Mapping[str, Any], transcript: Transcript) -> None:
    """POST /agent/stream, and read as far as it goes."""
    async with client.stream("POST", "/agent/stream", json=dict(body)) as response:
        async for _ in transcript.read(response):
            pass


async def follow(client: httpx.AsyncClient, transcript: Transcript, run_id: str | None = None) -> Transcript:
    """Go on reading a run where the transcript stands, to its end."""
    headers = {"Last-Event-ID": transcript.last_id} if transcript.last_id else {}
    url = f"/agent/runs/{run_id or transcript.run_id}/stream"
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 204:  # the end was seen already
            return transcript
        assert response.status_code == 200, await response.aread()
        async for _ in transcript.read(response):
            pass
    return transcript
