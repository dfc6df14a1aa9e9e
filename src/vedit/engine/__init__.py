"""What makes training data: exact edits, masks, and pairs mined from clips."""
