"""Callbacks of training libraries that report to Tune; each needs the package of its name."""
