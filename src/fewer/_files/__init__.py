"""Atomic file writes, folder locks and manifests."""
