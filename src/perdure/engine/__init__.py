"""The shell around pure decisions: load and cache, one writer, commit and watermark, timers, effects. The only part where state meets I/O."""
