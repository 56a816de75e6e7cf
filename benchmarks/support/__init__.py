"""What only this repository's own tables need."""
