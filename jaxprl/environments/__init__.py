"""Tasks as reinforcement-learning environments.

`functional` has pure JAX functions, and `gym` has gymnasium environments. Importing this package registers the tasks
with gymnasium if that is installed: `gymnasium.make("jaxprl/Karel-DoorKey-v0")`.
"""

import importlib.util

from jaxprl.environments import functional as functional

if importlib.util.find_spec("gymnasium") is not None:
    from jaxprl.environments import gym as gym
