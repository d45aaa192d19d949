"""What an operator sees of the running server: metrics, logs, the HTTP endpoint that serves both probes and metrics."""
