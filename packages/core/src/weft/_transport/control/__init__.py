"""Speaking with the control service over gRPC: only who works on a cluster loads it."""
