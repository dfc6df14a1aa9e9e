"""Edit any video with a trained checkpoint."""

from vedit.editor.editor import EditedVideo, Editor

__all__ = ["EditedVideo", "Editor"]
