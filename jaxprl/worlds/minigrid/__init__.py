"""MiniGrid: `state = from_farama(env)`, `state = act(state, action)`, `to_farama(state)`."""

from jaxprl.worlds.minigrid.farama import Exported, State, act, from_farama, to_farama

__all__ = ["Exported", "State", "act", "from_farama", "to_farama"]
