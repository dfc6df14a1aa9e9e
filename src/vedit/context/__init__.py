"""Encoders of the instruction, and of images that go with it, into tokens to attend to."""
