"""What trains of a pretrained module, and what of it a checkpoint holds."""
