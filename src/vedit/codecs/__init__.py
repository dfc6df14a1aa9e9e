"""Codecs between pixels and the latents that backbones denoise."""
