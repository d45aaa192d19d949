"""The shell around pure decisions: load and cache, one writer, commit and watermark, timers, effects."""
