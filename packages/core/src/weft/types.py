"""Types for annotations."""

from weft._refs import ObjectRef, ObjectRefGenerator

__all__ = ["ObjectRef", "ObjectRefGenerator"]
