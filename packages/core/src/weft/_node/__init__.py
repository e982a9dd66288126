"""The node daemon: leases, the worker pool, the actor directory, and who died how."""
