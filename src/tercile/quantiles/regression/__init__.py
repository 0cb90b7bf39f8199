"""Conditional quantiles: what the tail looks like given what is known."""
