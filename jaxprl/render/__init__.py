"""Pictures of worlds and of programs at work: `draw`, `frames`, `gif_bytes`, `save_gif`, `strip`, `save_strip`."""

from jaxprl.render.files import Frame, frames, gif_bytes, save_gif, save_strip, strip
from jaxprl.render.world import draw

__all__ = ["Frame", "draw", "frames", "gif_bytes", "save_gif", "save_strip", "strip"]
