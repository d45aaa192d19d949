"""Resources and metadata."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from perdure.store import Store
from perdure.store.protocol import Resource

FIRST = Resource("namespace", "id-1", "default", 1, b"\x00data")


async def test_resources_are_listed_by_name(store: Store) -> None:
    second = Resource("namespace", "id-0", "orders", 1, b"")
    endpoint = Resource("endpoint", "id-1", "default", 1, b"other kind")
    for resource in (second, FIRST, endpoint):
        assert await store.put_resource(resource, 0)
    assert await store.list_resources("namespace") == [FIRST, second]
    assert await store.list_resources("endpoint") == [endpoint]
    assert await store.list_resources("nothing") == []


async def test_an_insert_needs_a_free_id_and_name(store: Store) -> None:
    assert await store.put_resource(FIRST, 0)
    assert not await store.put_resource(replace(FIRST, data=b"again"), 0)
    assert not await store.put_resource(replace(FIRST, id="id-2"), 0)
    assert await store.list_resources("namespace") == [FIRST]


async def test_a_replacement_needs_the_expected_version(store: Store) -> None:
    await store.put_resource(FIRST, 0)
    second = replace(FIRST, version=2, data=b"2", name="renamed")
    assert not await store.put_resource(second, 2)
    assert await store.put_resource(second, 1)
    assert not await store.put_resource(replace(FIRST, version=2), 1)
    assert not await store.put_resource(replace(FIRST, id="unknown", name="x", version=2), 1)
    assert await store.list_resources("namespace") == [second]


async def test_a_replacement_cannot_take_a_name(store: Store) -> None:
    other = Resource("namespace", "id-2", "other", 1, b"")
    await store.put_resource(FIRST, 0)
    await store.put_resource(other, 0)
    assert not await store.put_resource(replace(other, name="default", version=2), 1)
    assert await store.list_resources("namespace") == [FIRST, other]


async def test_of_many_writers_one_wins(store: Store) -> None:
    await store.put_resource(FIRST, 0)
    won = await asyncio.gather(*(store.put_resource(replace(FIRST, version=2, data=b"%d" % number), 1) for number in range(6)))
    assert won.count(True) == 1
    assert [resource.data for resource in await store.list_resources("namespace")] == [b"%d" % won.index(True)]


async def test_resources_are_deleted(store: Store) -> None:
    await store.put_resource(FIRST, 0)
    assert not await store.delete_resource("namespace", "id-1", 2)
    assert not await store.delete_resource("namespace", "id-2")
    assert await store.delete_resource("namespace", "id-1", 1)
    assert not await store.delete_resource("namespace", "id-1")
    await store.put_resource(FIRST, 0)
    assert await store.delete_resource("namespace", "id-1")
    assert await store.list_resources("namespace") == []


async def test_metadata_is_set_once(store: Store) -> None:
    assert await store.read_metadata("cluster_id") is None
    assert await store.write_metadata("cluster_id", "a") == "a"
    assert await store.write_metadata("cluster_id", "b") == "a"
    assert await store.read_metadata("cluster_id") == "a"


async def test_of_many_metadata_writers_all_get_one_answer(store: Store) -> None:
    answers = await asyncio.gather(*(store.write_metadata("cluster_id", str(number)) for number in range(6)))
    assert len(set(answers)) == 1
