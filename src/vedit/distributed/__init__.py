"""Training on several devices, as Lightning is told of it."""
