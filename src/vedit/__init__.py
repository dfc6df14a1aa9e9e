"""vedit: research on video editing with conditioned diffusion transformers.

`vedit.Editor` edits a clip with a trained run; everything else is imported from the module that
defines it. Importing the package itself stays cheap: nothing heavy is loaded before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vedit.editor import Editor

__all__ = ["Editor", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `Editor` at its first use, since it brings torch with it."""
    if name == "Editor":
        from vedit.editor import Editor

        return Editor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
