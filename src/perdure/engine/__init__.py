"""The shell around pure decisions: load and cache, one writer and its commits, timers, effects."""
