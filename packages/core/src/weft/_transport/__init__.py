"""Moving messages between processes."""
