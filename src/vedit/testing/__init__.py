"""Checks against recorded results of other implementations."""
