"""Everything about a Hugging Face model: attach to it, pack its inputs, save and load it."""
