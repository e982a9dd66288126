"""What each service of control.proto answers: a module a service."""
