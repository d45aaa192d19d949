"""What only PostgreSQL has: connections that break, several servers, users and passwords."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from perdure.store import create_store, postgres_pool, schema
from perdure.store.postgres import COMMIT_CONNECTIONS, READ_CONNECTIONS, PostgresStore
from perdure.store.postgres_driver import Connection, connect
from perdure.store.protocol import CommitUnknown, LeaseLost, StoreError, StoreOpenError
from tests.store.samples import KIND, NAMESPACE, NOW, SECOND, Writer, header, journal_row
from tests.support.postgres import PostgresServer
from tests.support.proxy import Fault, Proxy
from tests.support.waiting import until


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[Proxy]:
    async with Proxy(postgres_server.port).running() as proxy:
        yield proxy


@pytest.fixture
async def writer(proxy: Proxy, postgres_url: str) -> AsyncIterator[Writer]:
    """Talks to the database through the proxy; its statements are prepared."""
    store = create_store(postgres_url.replace(f":{urlsplit(postgres_url).port}/", f":{proxy.port}/"))
    await store.open()
    writer = await Writer.open(store)
    await writer.commit(headers=[header(1)], journal=[journal_row(1, 1)])
    yield writer
    await store.close()


@pytest.fixture
async def administrator(postgres_url: str) -> AsyncIterator[Connection]:
    """A session beside the store's."""
    connection = await connect(postgres_url, {"search_path": "perdure"})
    yield connection
    await connection.close()


# An uncommitted row in the way of one that the store will insert holds up the store's commit in the middle, after its fence.
HOLD_UP = "BEGIN; INSERT INTO journal (uid, sequence, first_event_id, event_count, events, notes) VALUES (2, 1, 1, 1, '', '')"
HOLD_UP_READS = "BEGIN; LOCK TABLE snapshots IN ACCESS EXCLUSIVE MODE"
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'perdure %'"
WORKING = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND application_name LIKE 'perdure %'"


async def sessions(administrator: Connection, statement: str, number: int) -> list[int]:
    """Wait until so many sessions are in a state; their process ids."""

    found: list[int] = []

    async def as_many() -> bool:
        await administrator.execute("SELECT pg_stat_clear_snapshot()")  # or a transaction always sees the same
        found[:] = [row[0] for row in await administrator.fetch(statement)]
        return len(found) == number

    await until(as_many)
    return found


async def commit_number(writer: Writer) -> int:
    lease = await writer.store.read_lease(0)
    assert lease is not None
    assert lease.epoch == writer.lease.epoch
    return lease.commit_number


async def test_a_lost_request_did_not_happen(writer: Writer, proxy: Proxy) -> None:
    proxy.fault = Fault.LOSE_REQUEST
    with pytest.raises(CommitUnknown):
        await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)])
    assert await commit_number(writer) == 1
    assert await writer.store.read_journal(2) == []
    await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)])


async def test_a_lost_answer_did_happen(writer: Writer, proxy: Proxy) -> None:
    proxy.fault = Fault.LOSE_ANSWER
    with pytest.raises(CommitUnknown):
        await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)])
    assert await commit_number(writer) == 2
    assert await writer.store.read_journal(2) == [journal_row(2, 1)]
    await writer.commit(headers=[header(3)])


async def test_a_late_request_never_happens(writer: Writer, proxy: Proxy, administrator: Connection) -> None:
    proxy.fault = Fault.DELAY_REQUEST
    with pytest.raises(CommitUnknown):
        await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)])
    await proxy.delayed.wait()
    assert await commit_number(writer) == 1
    proxy.release()
    await sessions(administrator, WORKING, 0)
    assert await commit_number(writer) == 1
    assert await writer.store.read_journal(2) == []


async def test_a_commit_whose_session_is_ended_while_it_waits(writer: Writer, administrator: Connection) -> None:
    await administrator.execute(HOLD_UP)
    running = asyncio.ensure_future(writer.commit(headers=[header(2)], journal=[journal_row(2, 1)]))
    [process] = await sessions(administrator, WAITING, 1)
    await administrator.execute(f"SELECT pg_terminate_backend({process})")
    with pytest.raises(CommitUnknown):
        await running
    await administrator.execute("ROLLBACK")
    assert await commit_number(writer) == 1


async def test_a_commit_that_is_given_up_while_it_waits(writer: Writer, administrator: Connection) -> None:
    await administrator.execute(HOLD_UP)
    running = asyncio.ensure_future(writer.commit(headers=[header(2)], journal=[journal_row(2, 1)]))
    await sessions(administrator, WAITING, 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await commit_number(writer) == 1  # answered although the commit is still held up
    await administrator.execute("ROLLBACK")
    assert await writer.store.read_journal(2) == []
    await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)])


async def test_reads_hold_up_neither_commits_nor_leases(writer: Writer, proxy: Proxy, administrator: Connection) -> None:
    await administrator.execute(HOLD_UP_READS)
    reads = [asyncio.ensure_future(writer.store.read_snapshot(uid, "1")) for uid in range(3 * READ_CONNECTIONS)]
    await sessions(administrator, WAITING, READ_CONNECTIONS)
    async with asyncio.timeout(20):
        await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)])
        assert await writer.store.renew_lease(writer.lease, NOW, NOW + 7200 * SECOND)
        assert await commit_number(writer) == 2
        proxy.fault = Fault.LOSE_ANSWER
        with pytest.raises(CommitUnknown):
            await writer.commit(headers=[header(3)], journal=[journal_row(3, 1)])
        assert await commit_number(writer) == 3
        assert not any(read.done() for read in reads)
    await administrator.execute("ROLLBACK")
    assert await asyncio.gather(*reads) == [None] * len(reads)


async def test_commits_hold_up_no_other_partitions_lease(postgres_url: str, administrator: Connection) -> None:
    store = create_store(postgres_url)
    await store.open()
    writers = [await Writer.open(store, partition) for partition in range(COMMIT_CONNECTIONS + 2)]
    await administrator.execute(HOLD_UP)
    commits = [asyncio.ensure_future(writer.commit(journal=[journal_row(2, 1)])) for writer in writers[1:]]
    await sessions(administrator, WAITING, COMMIT_CONNECTIONS)
    async with asyncio.timeout(20):
        assert await store.renew_lease(writers[0].lease, NOW, NOW + 7200 * SECOND)
        assert await store.read_lease(0) is not None
    await administrator.execute("ROLLBACK")
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [*["DuplicateRowError"] * COMMIT_CONNECTIONS, "NoneType"]
    await store.close()


async def test_a_renewal_that_hangs_is_given_up_in_time(writer: Writer, administrator: Connection) -> None:
    await administrator.execute("BEGIN; SELECT * FROM leases FOR UPDATE")
    async with asyncio.timeout(20):
        with pytest.raises(StoreError):
            await writer.store.renew_lease(writer.lease, NOW, NOW + 7200 * SECOND)
    await administrator.execute("ROLLBACK")
    assert await writer.store.renew_lease(writer.lease, NOW, NOW + 7200 * SECOND)


async def test_reads_survive_the_loss_of_idle_connections(writer: Writer, administrator: Connection) -> None:
    await asyncio.gather(*(writer.store.find_current(NAMESPACE, KIND, "order-1") for _ in range(5)))
    await administrator.fetch("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'perdure %'")
    assert await writer.store.find_current(NAMESPACE, KIND, "order-1") == header(1)


async def test_an_unreachable_database_is_a_store_error(postgres_url: str, postgres_server: PostgresServer) -> None:
    async with Proxy(postgres_server.port).running() as proxy:
        store = create_store(postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        await store.open()
        writer = await Writer.open(store)
    with pytest.raises(StoreError):
        await writer.commit(headers=[header(1)])
    for _ in range(2):
        with pytest.raises(StoreError):
            await store.find_current(NAMESPACE, KIND, "order-1")
        with pytest.raises(StoreError):
            await store.read_lease(0)
    await store.close()


async def test_servers_share_a_database(empty_postgres_url: str) -> None:
    stores = [create_store(empty_postgres_url) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))  # all find it empty
    writers = [await Writer.open(store, partition, f"server-{partition}") for partition, store in enumerate(stores)]
    assert await stores[0].acquire_lease(1, "server-0", NOW, NOW + SECOND) is None
    await asyncio.gather(*(writer.commit(headers=[header(uid)]) for uid, writer in enumerate(writers, 1)))
    assert [await store.count_headers(NAMESPACE, KIND) for store in stores] == [4] * 4
    # The first server takes over the second's partition: whatever the second still commits is refused.
    await stores[1].release_lease(writers[1].lease)
    taken = await stores[0].acquire_lease(1, "server-0", NOW, NOW + 100 * SECOND)
    assert taken is not None
    with pytest.raises(LeaseLost):
        await writers[1].commit(headers=[header(9)])
    await Writer(stores[0], taken).commit(headers=[header(9)])
    for store in stores:
        await store.close()


async def test_leases_go_by_the_clock_of_the_database(postgres_url: str) -> None:
    """Servers on several machines disagree about the time: none may take a lease because its own clock is ahead."""
    first, second = create_store(postgres_url), create_store(postgres_url)
    await first.open()
    await second.open()
    slow, fast = NOW - 3600 * SECOND, NOW + 3600 * SECOND
    lease = await first.acquire_lease(0, "slow", slow, slow + 5 * SECOND)
    assert lease is not None
    assert await second.acquire_lease(0, "fast", fast, fast + 5 * SECOND) is None
    assert await first.renew_lease(lease, slow, slow + 5 * SECOND)
    assert await second.acquire_lease(0, "fast", fast, fast + 5 * SECOND) is None

    async def taken() -> bool:
        return await second.acquire_lease(0, "fast", slow, slow + 5 * SECOND) is not None

    await first.renew_lease(lease, slow, slow + SECOND // 5)
    await until(taken)  # though by this clock it has long to go
    await first.close()
    await second.close()


async def test_a_takeover_waits_for_a_commit_on_its_way(postgres_url: str, administrator: Connection) -> None:
    first, second = create_store(postgres_url), create_store(postgres_url)
    await first.open()
    await second.open()
    writer = await Writer.open(first)
    await administrator.execute("UPDATE leases SET expires_at = 0")
    await administrator.execute(HOLD_UP)
    committing = asyncio.ensure_future(writer.commit(journal=[journal_row(2, 1)]))
    await sessions(administrator, WAITING, 1)
    takeover = asyncio.ensure_future(second.acquire_lease(0, "other", NOW, NOW + 100 * SECOND))
    await sessions(administrator, WAITING, 2)
    await administrator.execute("ROLLBACK")
    await committing
    lease = await takeover
    assert lease is not None
    assert lease.commit_number == 1
    assert await second.read_journal(2) == [journal_row(2, 1)]
    await first.close()
    await second.close()


async def test_a_newer_schema_is_refused(postgres_url: str, administrator: Connection) -> None:
    store = create_store(postgres_url)
    await store.open()
    await store.close()
    await administrator.execute(f"UPDATE {schema.VERSION_TABLE} SET version = {schema.LATEST + 1}")
    with pytest.raises(StoreOpenError, match=f"schema version {schema.LATEST + 1}.*newer Perdure"):
        await store.open()


async def test_reopening_keeps_everything(empty_postgres_url: str) -> None:
    store = create_store(empty_postgres_url)
    for number in range(1, 4):
        await store.open()
        await (await Writer.open(store)).commit(headers=[header(number)])
        assert await store.count_headers(NAMESPACE, KIND) == number
        await store.close()


async def test_what_keeps_a_database_from_opening(postgres_server: PostgresServer, empty_postgres_url: str) -> None:
    async def refusal(url: str) -> str:
        with pytest.raises(StoreOpenError) as refused:
            await create_store(url).open()
        return str(refused.value)

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
        message = await refusal(f"postgresql://me:secret@127.0.0.1:{nobody}/mine")
    assert f"PostgreSQL 127.0.0.1:{nobody}/mine cannot be used" in message
    assert "Is the server running?" in message
    assert "secret" not in message
    message = await refusal(postgres_server.url("missing"))
    assert 'database "missing" does not exist' in message
    assert "createdb" in message
    message = await refusal(empty_postgres_url.replace("postgres@", "stranger:secret@"))
    assert 'role "stranger" does not exist' in message
    assert "secret" not in message
    message = await refusal("postgresql://me:se/cret@127.0.0.1/x")
    assert "PostgreSQL 127.0.0.1/x cannot be used: the URL is not of the form" in message
    assert "cret" not in message
    role = f"reader_{urlsplit(empty_postgres_url).path[6:]}"
    await postgres_server.run(f"CREATE ROLE {role} LOGIN")
    message = await refusal(empty_postgres_url.replace("postgres@", f"{role}@"))
    await postgres_server.run(f"DROP ROLE {role}")
    assert "GRANT CREATE ON DATABASE" in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@db.example:5433/mine?sslmode=require",
        "postgresql://db.example:5433/mine?user=me&password=secret",
        "postgres://me:se/c@ret?@db.example:5433/mine",
    ],
)
def test_the_description_keeps_the_password(url: str) -> None:
    assert create_store(url).description == "PostgreSQL db.example:5433/mine"


async def test_a_refusal_costs_no_connection(writer: Writer, proxy: Proxy) -> None:
    before = proxy.connections
    with pytest.raises(StoreError):
        await writer.commit(journal=[journal_row(1, 1)])
    await writer.commit(journal=[journal_row(1, 2)])
    assert proxy.connections == before


async def test_a_commit_is_one_round_trip(writer: Writer, proxy: Proxy) -> None:
    await writer.commit(superseded=[1], headers=[header(2, business_id="order-1")], journal=[journal_row(2, 1)])
    before = proxy.requests
    await writer.commit(superseded=[2], headers=[header(3, business_id="order-1")], journal=[journal_row(3, 1)])
    assert proxy.requests == before + 1


async def test_sessions_do_not_go_by_the_defaults_of_their_role(postgres_server: PostgresServer, postgres_url: str) -> None:
    for setting, value in (("synchronous_commit", "off"), ("default_transaction_isolation", "'repeatable read'")):
        await postgres_server.run(f"ALTER DATABASE {urlsplit(postgres_url).path[1:]} SET {setting} = {value}")
    # What the defaults do to any other session.
    plain = await connect(postgres_url, {})
    assert (await plain.fetch("SHOW synchronous_commit"))[0][0] == "off"
    await plain.close()
    for wanted in ("on", "local"):
        store = PostgresStore(postgres_url, synchronous_commit=wanted)
        await store.open()
        for pool in store._pools:  # pyright: ignore[reportPrivateUsage]
            for setting, value in (("synchronous_commit", wanted), ("default_transaction_isolation", "read committed")):
                rows = await store._read(pool, f"SHOW {setting}", ())  # pyright: ignore[reportPrivateUsage]
                assert rows[0][0] == value
        await store.close()


async def test_closing_takes_the_time_of_one_silent_session(postgres_url: str, proxy: Proxy) -> None:
    store = PostgresStore(postgres_url.replace(f":{urlsplit(postgres_url).port}/", f":{proxy.port}/"))
    await store.open()
    await asyncio.gather(*(store.find_current(NAMESPACE, KIND, str(number)) for number in range(READ_CONNECTIONS)))
    closing, at_once = list[Connection](), 0
    close = postgres_pool._close  # pyright: ignore[reportPrivateUsage]

    async def noting(connection: Connection) -> None:
        nonlocal at_once
        closing.append(connection)
        at_once = max(at_once, len(closing))
        await close(connection)
        closing.remove(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_pool, "_close", noting)
        await store.close()
    assert at_once > READ_CONNECTIONS
