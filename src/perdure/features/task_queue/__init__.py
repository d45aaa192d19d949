"""Task queues as callers see them: how workers poll, and what is known of a queue."""
