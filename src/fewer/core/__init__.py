"""The data path: packed tokens, decisions, how they are carried out, and the one forward pass."""
