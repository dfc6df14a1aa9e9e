"""One model on several devices: who holds which weights, which samples, which tokens."""
