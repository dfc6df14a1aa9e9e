"""Model-free edits with an exact target: the supervision that costs nothing."""

from __future__ import annotations

from importlib import import_module

from vedit.engine.experts import colour, frame, spatial, temporal, tone
from vedit.engine.experts.base import Expert
from vedit.errors import ConfigError, nearest

SHIPPED: tuple[type[Expert], ...] = (
    colour.Grayscale,
    colour.Sepia,
    colour.Negative,
    colour.HueShift,
    colour.SwapRedBlue,
    colour.TintBlue,
    colour.TintRed,
    colour.NightVision,
    colour.Thermal,
    colour.Duotone,
    tone.Brighten,
    tone.Darken,
    tone.IncreaseContrast,
    colour.Saturate,
    tone.Haze,
    tone.Posterise,
    tone.Solarise,
    tone.Threshold,
    spatial.Mirror,
    spatial.FlipUpsideDown,
    spatial.Rotate180,
    spatial.Pixelate,
    spatial.Blur,
    spatial.Sharpen,
    spatial.Edges,
    spatial.Sketch,
    spatial.Emboss,
    spatial.ZoomIn,
    spatial.Shift,
    frame.Vignette,
    frame.Spotlight,
    frame.BlackBorder,
    frame.Letterbox,
    frame.Scanlines,
    frame.Checkerboard,
    frame.ZoomOut,
    frame.Tile,
    frame.MirrorHalves,
    frame.Kaleidoscope,
    temporal.Reverse,
    temporal.FreezeFirstFrame,
    temporal.FadeToBlack,
    temporal.FadeFromBlack,
    temporal.FadeToWhite,
    temporal.Curtain,
    temporal.Strobe,
)


def experts() -> dict[str, Expert]:
    """All shipped edits by name, in the order of `SHIPPED`."""
    return {shipped.name: shipped() for shipped in SHIPPED}


def expert(name: str) -> Expert:
    """The edit of a shipped name, or of a dotted class path such as ``my.module.MyExpert``.

    Args:
        name: Such as "sepia".

    Returns:
        The edit.

    Raises:
        ConfigError: There is no such name, or the path leads to no edit.
    """
    if "." in name:
        return _from_path(name)
    shipped = experts()
    if name not in shipped:
        raise ConfigError(
            f"expert {name!r}: no such edit, expected one of {len(shipped)} shipped names "
            f"or a dotted class path.{nearest(name, shipped)}"
        )
    return shipped[name]


def _from_path(path: str) -> Expert:
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"expert {path!r}: cannot be imported ({error}).") from error
    if not (isinstance(found, type) and issubclass(found, Expert)):
        raise ConfigError(f"expert {path!r}: got {found!r}, expected a subclass of Expert.")
    try:
        return found()
    except TypeError as error:
        raise ConfigError(
            f"expert {path!r}: cannot be made without arguments ({error})."
        ) from error


__all__ = ["SHIPPED", "Expert", "expert", "experts"]
