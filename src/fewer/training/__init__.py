"""Training: a method's phases on the Hugging Face Trainer."""
