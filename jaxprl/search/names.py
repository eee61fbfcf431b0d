"""Names of the random numbers that a search draws besides its candidates, for `jax.random.fold_in`.

The candidates of a search, which are the programs that it evaluates, have the names 0, 1, 2, ... up to its budget,
which is below 2**30. So no name here means two things.
"""

BEFORE = 2**31
"""Programs that are drawn before the first one is evaluated."""
STARTS = 2**31 + 1
"""Start points of climbs and runs; the number of the climb is folded in next."""
REDRAWN = 2**31 + 2
"""Draws that replace a program that is too large, folded into the key of the candidate."""
ACCEPTANCE = 2**31 + 3
"""The number that decides whether a worse candidate is taken, folded into the key of the candidate."""
NETWORK = 2**31 + 4
"""The first parameters of a network."""
EPISODES = 2**31 + 5
"""What a policy does in its episodes; the number of the episode is folded in next."""
UPDATES = 2**31 + 6
"""The order in which a policy learns; the number of the update is folded in next."""
TRACED = 2**31 + 7
"""The states that parts of programs are run on. They are the same for all searches: it is folded into the key of 0."""
