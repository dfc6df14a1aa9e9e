"""Keys that earlier versions had, and what to write instead."""

RENAMED = {
    "gradient_checkpointing": "write recompute: RecomputeBlocks for true, recompute: null for false"
}


def instead_of(key: str) -> str:
    """What to write instead of a key that is unknown where it stands.

    Args:
        key: its last part.

    Returns:
        The end of a message, empty if no earlier version had such a key.
    """
    return f" It was renamed: {RENAMED[key]}." if key in RENAMED else ""
