"""Pure vocabulary that every other part speaks: records, steps, jobs, time, ids, limits, errors, calls. No I/O, no asyncio."""
