"""Three ideas of yours, next to vedit and not in it."""
