"""Checks of what users write: names with the nearest known one, values by type."""
