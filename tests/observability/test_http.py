"""Probes and metrics over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from perdure.observability.http import HttpAnswer, HttpServer, observability_routes
from perdure.observability.loop_lag import LoopLag
from perdure.observability.metrics import CONTENT_TYPE, Histogram, Registry
from perdure.rpc.listening import listen


class Site:
    """A running server."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.is_ready = True
        self.server = HttpServer({**observability_routes(self.registry, lambda: self.is_ready), "/bug": self._bug})
        self.port = 0

    def _bug(self) -> HttpAnswer:
        raise ZeroDivisionError


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    site.port = await site.server.start(listen("127.0.0.1", 0))
    yield site
    await site.server.stop()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}", trust_env=False) as client:
        yield client


async def test_metrics_over_one_connection(site: Site, client: httpx.AsyncClient) -> None:
    counter = site.registry.counter("asked", "Help.").labels()
    for expected in (1, 2, 3):
        counter.inc()
        answer = await client.get("/metrics?name=x")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == CONTENT_TYPE
        assert f"\nasked {expected}\n" in answer.text


async def test_probes(site: Site, client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "OK"}
    assert (await client.get("/readyz")).status_code == 200
    site.is_ready = False
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "NOT_SERVING"})
    assert (await client.get("/healthz")).status_code == 200


async def test_other_requests_are_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("/nothing")).status_code == 404
    assert (await client.post("/metrics", content=b"x")).status_code == 405
    assert (await client.head("/healthz")).status_code == 200
    assert (await client.get("/healthz", headers={"x": "y" * 20_000})).status_code == 431


async def test_bug_is_logged_and_answered(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    assert (await client.get("/bug")).status_code == 500
    assert "bug in the answer to /bug" in caplog.text


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\xff\xff\r\n\r\n"])
async def test_what_is_no_http_is_refused(site: Site, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(sent)
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_stop_closes_open_connections(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await site.server.stop()
    await site.server.stop()
    assert (await reader.read()).endswith(b'{"status": "OK"}\n')
    writer.close()


async def test_blocked_event_loop_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    measured = asyncio.Event()

    class Seen(Histogram):
        def observe(self, value: float) -> None:
            super().observe(value)
            measured.set()

    histogram = Seen()
    lag = LoopLag(histogram)
    lag.start()
    loop = asyncio.get_running_loop()
    until = loop.time() + 1.3
    while loop.time() < until:
        pass
    await measured.wait()
    lag.stop()
    assert histogram.total > 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
