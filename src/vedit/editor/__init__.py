"""Edit any video with a trained checkpoint."""

from vedit.editor.edited import EditedVideo
from vedit.editor.editor import Editor

__all__ = ["EditedVideo", "Editor"]
