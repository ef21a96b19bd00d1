"""Measurements; results beside the commands that made them."""
