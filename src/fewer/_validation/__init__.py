"""Validate user input: names with the nearest valid name, values by type."""
