"""Trackers of experiments and training libraries; each module needs the package of its name."""
