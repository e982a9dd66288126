"""The node daemon: leases, the worker pool, the actor directory, and the reports of who died how."""
