"""Updates: admitted by a client, sent to the worker with a task, accepted or rejected, completed."""
