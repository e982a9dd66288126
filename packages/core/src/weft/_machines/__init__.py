"""Pure machines: events in, effects out. No clock, no I/O, no threads, no randomness."""
