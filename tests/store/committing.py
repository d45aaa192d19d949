"""A program that commits to a store until it is killed: ``python -m tests.store.committing LOCATION``.

Prints the uid of the execution that a commit wrote, a line each, once the commit is done.
"""

from __future__ import annotations

import asyncio
import sys

from perdure.store import create_store
from perdure.store.protocol import StoreOpenError
from tests.store.samples import KIND, NAMESPACE, Writer, header, journal_row


async def commit_for_ever(location: str) -> None:
    store = create_store(location)
    await store.open()
    writer = await Writer.open(store)
    uid = await store.count_headers(NAMESPACE, KIND)
    while True:
        uid += 1
        await writer.commit(headers=[header(uid)], journal=[journal_row(uid, 1), journal_row(uid, 2)])
        print(uid, flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(commit_for_ever(sys.argv[1]))
    except StoreOpenError as error:
        sys.exit(str(error))
