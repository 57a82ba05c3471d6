"""Kill -9 in a fleet of three: another replica goes on, nothing is lost or doubled (catalogue 1 to 10)."""

from tests.support.fleet import Fleet
from tests.support.transcript import follow, stream


async def test_a_fleet_answers_at_every_replica(fleet: Fleet) -> None:
    await fleet.begin()
    async with fleet.client() as client:
        for number in range(6):
            answer = await client.post("/agent/invoke", json={"message": f"say: {number}", "thread_id": "t"})
            assert answer.json()["response"] == str(number), answer.text
        seen = await stream(client, {"message": "say: streamed"})
        again = await follow(client, type(seen)(), seen.run_id)
    assert again.frames == seen.frames
    assert all(fleet.proxy.served.values())
    await fleet.settled()
    fleet.check(transcripts=[seen])
