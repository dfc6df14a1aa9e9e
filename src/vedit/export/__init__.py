"""Trained editors in the layouts of other tools."""
