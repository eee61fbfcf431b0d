"""MiniGrid as array code, for states of any of Farama's environments.

Example:
  >>> import gymnasium, minigrid
  >>> env = gymnasium.make("MiniGrid-Empty-5x5-v0")
  >>> _ = env.reset(seed=0)
  >>> state = act(from_farama(env), 2)  # forward
  >>> to_farama(state).agent_pos
  (2, 1)
"""

from jaxprl.worlds.minigrid.farama import Exported, State, act, from_farama, to_farama

__all__ = ["Exported", "State", "act", "from_farama", "to_farama"]
