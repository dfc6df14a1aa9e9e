"""How conditions enter the sequence: add to tokens, append tokens, attend to a context."""
