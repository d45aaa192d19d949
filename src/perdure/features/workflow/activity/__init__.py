"""Activities of a workflow: scheduled by a command, attempted, retried, controlled from outside, finished."""
