"""What is linked into drivers and workers."""
