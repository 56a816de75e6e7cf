"""The methods: pruning tokens, exiting early, attending to fewer pairs, and combinations."""
