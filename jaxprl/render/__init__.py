"""Pictures of worlds and of programs at work.

- `draw`: one state of a world.
- `frames`, `gif_bytes`, `save_gif`: a run of a program as an animation.
- `strip`, `save_strip`: some moments of a run in one picture.
"""

from jaxprl.render.gif import Frame, frames, gif_bytes, save_gif, save_strip, strip
from jaxprl.render.world import draw

__all__ = ["Frame", "draw", "frames", "gif_bytes", "save_gif", "save_strip", "strip"]
