"""`/metrics` of the shipped server: on the server's port for the operator's key, or on a port of its own."""

import socket
from pathlib import Path

import httpx

from tests.e2e.command import run, serving

ONE_RUN = 'roadworthy_runs_total{agent="demo",code="",status="success"} 1.0'


async def test_the_operator_reads_the_numbers_with_a_key_made_for_that(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        code, out, _ = await run(tmp_path, "keys", "create", "--user", "prometheus", "--scope", "metrics:read")
        assert code == 0
        async with server.client(server.first_key) as client, server.client(out.strip()) as scraper:
            assert (await client.post("/agent/invoke", json={"message": "What is a run?"})).status_code == 200
            answer = await scraper.get("/metrics")
            assert (await scraper.get("/agent/threads")).status_code == 403
    assert ONE_RUN in answer.text
    assert "process_resident_memory_bytes" in answer.text


async def test_on_a_port_of_its_own_no_key_is_needed_and_the_servers_port_has_none(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with serving(tmp_path, env={"ROADWORTHY_METRICS_PORT": str(port)}) as server:
        async with server.client(server.first_key) as client:
            assert (await client.post("/agent/invoke", json={"message": "What is a run?"})).status_code == 200
            assert (await client.get("/metrics")).status_code == 404
        async with httpx.AsyncClient() as scraper:
            answer = await scraper.get(f"http://127.0.0.1:{port}/metrics")
        (record,) = server.records("serving_metrics")
        assert await server.stop() == 0
    assert ONE_RUN in answer.text
    assert record["port"] == port


async def test_a_taken_port_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = await run(tmp_path, "serve", "--port", "0", env={"ROADWORTHY_METRICS_PORT": str(port)})
    assert code == 2
    assert f"/metrics cannot listen on 127.0.0.1 port {port}" in err
    assert "ROADWORTHY_METRICS_PORT" in err
