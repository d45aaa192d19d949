"""Task queues: a task meets a poller. Soft state in memory; the executions own the tasks."""
