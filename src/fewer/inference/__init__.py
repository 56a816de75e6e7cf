"""Inference on many texts: batches by token count, logits, tags, spans, pipelines."""
