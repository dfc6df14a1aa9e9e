"""Rectified flow: the path, its noise levels and weights, and how to travel it back."""
