"""How well a trained editor edits: scores, and the report that shows them."""
