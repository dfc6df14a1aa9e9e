"""Grids of experiments: read, checked, run, collected and reported."""
