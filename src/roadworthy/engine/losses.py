"""What model calls cost that were in flight when their worker died: their input, and the text that they had shown.

``engine/execution.py`` asks before a later attempt begins, ``engine/reaper.py`` when there is none. Below are the
ledger with the money that it still holds for such calls (without a budget none), and the runtime, which may know more.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from roadworthy.domain.budget import RESERVED_PRICE, InFlight
from roadworthy.domain.event import ContentDelta, Event, UsageReported
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall, Tokens, tokens_of
from roadworthy.engine.metering import Meter
from roadworthy.engine.spending import AttemptSpending
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.runtime import AgentRuntime


@dataclass(slots=True)
class _Shown:
    """What an attempt has shown of one message. What it took back counts too: it was paid for."""

    attempt: int
    message_id: str
    node: str
    chars: int = 0

    def is_of(self, call_id: str) -> bool:
        """Whether its id says so: that of a message whose provider gave it none ends with its call's."""
        return self.message_id.endswith(f"-{call_id}")


async def calls_so_far(
    run: Run,
    seen: Sequence[Event],
    *,
    ledger: Ledger,
    runtime: AgentRuntime,
    spending: AttemptSpending,
    meter: Meter,
) -> Sequence[ModelCall]:
    """The calls of a run's earlier attempts, of which these events are. The lost ones go on record with the next flush
    of ``meter``.

    Raises:
        StorageUnavailable: the ledger cannot be read.
    """
    recorded = await ledger.of_run(run.owner, run.run_id)
    in_flight, answered = await ledger.in_flight(run), await runtime.answered_calls(run)
    told = [event.body.call for event in seen if isinstance(event.body, UsageReported)]
    lost = lost_calls(in_flight, seen, [*recorded, *answered, *told])
    spending.take_over(lost)
    known = {call.call_id for call in recorded}
    # Without a budget nothing is held for these, and in a run that is over nobody asks for them again.
    unheard = [call for call in answered if call.call_id not in known]
    owed = [meter.owe(call) for call in {call.call_id: call for call in (*lost, *unheard)}.values()]
    return [*recorded, *(call for call in owed if call.call_id not in known)]


def lost_calls(in_flight: Sequence[InFlight], seen: Iterable[Event], known: Iterable[ModelCall]) -> Sequence[ModelCall]:
    """What is known of calls of which the ledger never heard the end, in their order.

    One that somebody else knows the end of is as he says; ``known`` has the run's other calls too. Of the rest the
    input is what was reserved for, and the output is the text of the messages that no known call claims: by their ids,
    else in order among those of the same node. Tool arguments, hidden thinking and text that was not in the log yet
    are not in it. The cost is what was reserved, until it is priced.
    """
    ended = {call.call_id: call for call in known}
    lost = [one for one in in_flight if one.reservation.call_id not in ended]
    chars = _chars(lost, _unclaimed(seen, ended))
    return [
        ended.get(one.reservation.call_id) or _lost(one, chars.get(one.reservation.call_id, 0)) for one in in_flight
    ]


def _unclaimed(seen: Iterable[Event], ended: Mapping[str, ModelCall]) -> Sequence[_Shown]:
    """Messages of which no call that has ended says, or is said, to be theirs; in the order of their beginnings."""
    messages: dict[tuple[int, str], _Shown] = {}
    for event in seen:
        body = event.body
        if isinstance(body, ContentDelta):
            place = (event.id.attempt, body.message_id)
            message = messages.get(place)
            if message is None:
                message = messages[place] = _Shown(*place, body.node)
            message.chars += len(body.text)
    claimed = {call.message_id for call in ended.values()}
    return [
        message
        for message in messages.values()
        if message.message_id not in claimed and not any(map(message.is_of, ended))
    ]


def _chars(lost: Sequence[InFlight], messages: Sequence[_Shown]) -> Mapping[str, int]:
    """How many characters each call has shown, by its id; those that have shown nothing may be missing."""
    own: dict[str, int] = {}
    others: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for message in messages:
        call_id = next((one.reservation.call_id for one in lost if message.is_of(one.reservation.call_id)), None)
        if call_id is None:
            others[message.attempt, message.node].append(message.chars)
        else:
            own[call_id] = message.chars
    silent: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for one in lost:
        if one.reservation.call_id not in own:
            silent[one.attempt, one.reservation.node].append(one.reservation.call_id)
    for place, call_ids in silent.items():
        # The latest ones: whoever died was not done.
        own.update(zip(call_ids, others[place][-len(call_ids) :], strict=False))
    return own


def _lost(one: InFlight, chars: int) -> ModelCall:
    reserved = one.reservation
    return ModelCall(
        call_id=reserved.call_id,
        node=reserved.node,
        provider=reserved.provider,
        model=reserved.model,
        tokens=Tokens(input=reserved.input_tokens, output=tokens_of(chars)),
        estimated=True,
        outcome="lost",
        started_at=reserved.started_at,
        # When it ended nobody knows.
        finished_at=reserved.started_at,
        cost_nanos=reserved.nanos,
        price_version=RESERVED_PRICE,
    )
