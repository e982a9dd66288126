"""Integrations of weft-tune with other packages, where users of Ray look for them."""
