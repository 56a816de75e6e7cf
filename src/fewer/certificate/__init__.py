"""Calibration with a certificate: the fastest setting that provably changes few answers."""
