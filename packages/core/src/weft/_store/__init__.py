"""Where large objects live."""
