"""Comparison of methods on one data set, at an equal number of training steps."""
