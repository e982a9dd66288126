"""The control service of a cluster: one process on the head, a journal behind it."""
