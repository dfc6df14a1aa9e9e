"""Diffusion transformers that read a token sequence and predict its target's velocity."""
