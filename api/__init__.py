"""The HTTP service. Loads no torch."""
