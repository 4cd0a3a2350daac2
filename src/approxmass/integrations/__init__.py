"""Doors into the words of other libraries."""

__all__: list[str] = []
