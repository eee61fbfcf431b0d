"""PPO and its parts against the same in plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprl.rl import networks, ppo
from jaxprl.rl.advantages import advantages
from jaxprl.rl.observers import StateObserver, StepObserver
from jaxprl.worlds.make import make

STEPS, EPISODES, SIZE = 3, 5, 2
SETTINGS = ppo.Settings(learning_rate=1e-2, epochs=1, clip=0.1)
OBSERVER = StepObserver(STEPS)
KEY = jax.random.key(3, impl="threefry2x32")


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lengths_to_taken(lengths):
    return np.arange(STEPS) < np.asarray(lengths)[:, None]


def plain_advantages(rewards, values, taken, discount, gae_lambda):
    found = np.zeros(rewards.shape)
    for episode in range(len(rewards)):
        length = int(taken[episode].sum())
        later, value = 0.0, 0.0
        for step in reversed(range(length)):
            later = rewards[episode, step] + discount * value - values[episode, step] + discount * gae_lambda * later
            value = values[episode, step]
            found[episode, step] = later
    return found, np.where(taken, found + values, 0)


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.5, 0.0)])
def test_advantages_are_those_of_a_loop_backwards(discount, gae_lambda):
    rewards, values = random(EPISODES, STEPS), random(EPISODES, STEPS, seed=1)
    taken = lengths_to_taken([0, 1, 2, 3, 3])
    found = advantages(jnp.asarray(rewards), values, taken, discount=discount, gae_lambda=gae_lambda)
    for mine, plain in zip(found, plain_advantages(rewards, values, taken, discount, gae_lambda), strict=True):
        np.testing.assert_allclose(mine, plain, atol=1e-5)


def test_an_action_without_a_later_one_expects_nothing():
    """The last step of an episode is its end, whatever the values behind it are."""
    rewards, values, taken = np.ones((1, 2), np.float32), np.float32([[0.25, 7.0]]), np.array([[True, False]])
    found, returns = advantages(jnp.asarray(rewards), values, taken, discount=0.9, gae_lambda=0.9)
    assert found.tolist() == [[0.75, 0.0]]
    assert returns.tolist() == [[1.0, 0.0]]


def convolved(layer, planes, side):
    """Return ReLU of a convolution of planes [P, H, W]."""
    filters = layer["w"].reshape(networks.CHANNELS, -1, side, side)
    rows, columns = planes.shape[1] - side + 1, planes.shape[2] - side + 1
    found = np.zeros((networks.CHANNELS, rows, columns))
    for row in range(rows):
        for column in range(columns):
            part = planes[None, :, row : row + side, column : column + side]
            found[:, row, column] = (filters * part).sum(axis=(1, 2, 3)) + layer["b"]
    return np.maximum(found, 0)


def plain_network(params, images):
    """Return the means [T, D] and the values [T] of one episode."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    h, means, values = np.zeros(networks.STATE), [], []
    cell = params["gru"]
    for image in images:
        planes = convolved(params["far"], convolved(params["near"], image, 4), 2)
        features = np.maximum(params["features"]["w"] @ planes.reshape(-1) + params["features"]["b"], 0)
        (ir, iz, i_n), (hr, hz, hn) = (
            np.split(cell[f"w_{name}"] @ given + cell[f"b_{name}"], 3) for name, given in (("i", features), ("h", h))
        )
        n = np.tanh(i_n + sigmoid(ir + hr) * hn)
        h = (1 - sigmoid(iz + hz)) * n + sigmoid(iz + hz) * h
        means.append(params["mean"]["w"] @ h + params["mean"]["b"])
        values.append((params["value"]["w"] @ h + params["value"]["b"])[0])
    return np.array(means), np.array(values)


def plain_log_density(action, mean, log_std):
    return (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum()


def plain_loss(params, acted, taken, gains, returns, settings):
    means, values = plain_network(params, np.asarray(OBSERVER.images(())[0], np.float64))
    policy, value, count = 0.0, 0.0, 0
    for episode, step in np.argwhere(taken):
        change = plain_log_density(acted.actions[episode, step], means[step], params["log_std"])
        ratio, gain = np.exp(change - acted.log_probabilities[episode, step]), gains[episode, step]
        policy -= min(ratio * gain, np.clip(ratio, 1 - settings.clip, 1 + settings.clip) * gain)
        old, want = acted.values[episode, step], returns[episode, step]
        near = old + np.clip(values[step] - old, -settings.clip, settings.clip)
        value += max((values[step] - want) ** 2, (near - want) ** 2) / 2
        count += 1
    entropy = (params["log_std"] + 0.5 * np.log(2 * np.pi * np.e)).sum()
    return policy / count + settings.value_weight * value / count - settings.entropy_weight * entropy


def example():
    """Return a policy that is somewhat other than the one that acted, and one mini-batch of what that did."""
    learner = ppo.init(SETTINGS, OBSERVER.shape, SIZE, KEY)
    means, values = networks.unroll(learner.params, OBSERVER.images(()))
    actions = np.asarray(means) + random(EPISODES, STEPS, SIZE)
    log_probabilities = ppo.log_density(actions, means, learner.params["log_std"])
    acted = ppo.ActionSample(
        (), actions, np.asarray(log_probabilities), np.asarray(values) + random(EPISODES, STEPS, seed=4) / 5
    )
    moved = jax.tree.map(lambda leaf: leaf + 0.05 * random(*leaf.shape, seed=5), learner.params)
    return learner._replace(params=moved), acted, lengths_to_taken([3, 1, 2, 3, 3])


def test_the_loss_and_its_gradient_are_those_of_plain_numpy():
    learner, acted, taken = example()
    gains, returns = random(EPISODES, STEPS, seed=6), random(EPISODES, STEPS, seed=7)
    batch = ppo._Batch(acted, taken, gains, returns)
    loss = jax.jit(jax.value_and_grad(lambda params: ppo._loss(SETTINGS, OBSERVER, params, batch), has_aux=True))
    (found, figures), gradient = loss(learner.params)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), learner.params)

    def plain(params):
        return plain_loss(params, acted, taken, gains, returns, SETTINGS)

    assert float(found) == pytest.approx(plain(exact), rel=1e-4)
    assert 0 < figures.clipped < 1
    for name in exact:  # each part of the network in a random direction
        way = {**jax.tree.map(np.zeros_like, exact)}
        way[name] = jax.tree.map(lambda leaf: random(*leaf.shape, seed=8).astype(np.float64), exact[name])
        ahead, behind = (
            plain(jax.tree.map(lambda leaf, way, sign=sign: leaf + sign * 1e-6 * way, exact, way)) for sign in (1, -1)
        )
        slope = sum(
            np.sum(np.asarray(a, np.float64) * b) for a, b in zip(*map(jax.tree.leaves, (gradient, way)), strict=True)
        )
        assert slope == pytest.approx((ahead - behind) / 2e-6, rel=2e-3, abs=1e-5), name


def test_an_update_takes_one_adam_step_per_mini_batch_and_epoch():
    learner, acted, taken = example()
    rewards = random(EPISODES, STEPS, seed=9)
    group = jax.tree.map(lambda leaf: np.stack([leaf] * 2), (acted, rewards, taken))
    settings = ppo.Settings(learning_rate=1e-4, epochs=2)
    after, _ = ppo.update(settings, OBSERVER, learner, *group, KEY)
    gains, returns = plain_advantages(rewards, acted.values, taken, settings.discount, settings.gae_lambda)
    normal = np.where(taken, gains - gains[taken].mean(), 0) / (gains[taken].std() + 1e-5)
    batch = ppo._Batch(acted, taken, jnp.float32(normal), jnp.float32(returns))
    gradient_of = jax.jit(jax.grad(lambda params: ppo._loss(settings, OBSERVER, params, batch)[0]))
    params, m, v = learner.params, *[jax.tree.map(jnp.zeros_like, learner.params)] * 2

    def clipped(gradient):
        norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
        return jax.tree.map(lambda leaf: leaf * min(1, 0.5 / norm), gradient)

    def moved(step, p, m, v):
        return p - 1e-4 * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-5)

    for step in range(1, 5):
        gradient = clipped(gradient_of(params))
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradient)
        params = jax.tree.map(functools.partial(moved, step), params, m, v)
    for mine, plain in zip(*map(jax.tree.leaves, (after.params, params)), strict=True):
        np.testing.assert_allclose(mine, plain, atol=4e-6)


def test_actions_are_drawn_from_the_policy_and_do_not_depend_on_those_beside_them():
    learner = ppo.init(SETTINGS, OBSERVER.shape, SIZE, KEY)
    keys = jax.random.split(KEY, 4000)
    start = np.zeros((1, networks.STATE), np.float32)
    acted, memory = ppo.act(OBSERVER, learner.params, (), start, keys, jnp.int32(0))
    mean, value = (each[0, 0] for each in networks.unroll(learner.params, OBSERVER.images(())))
    noise = np.asarray(acted.actions) - np.asarray(mean)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=5 / np.sqrt(4000))
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.06)
    plain = [plain_log_density(action, np.asarray(mean), np.zeros(SIZE)) for action in acted.actions[:5]]
    np.testing.assert_allclose(acted.log_probabilities[:5], plain, rtol=1e-5)
    np.testing.assert_allclose(acted.values, value, rtol=1e-5)
    again, _ = ppo.act(OBSERVER, learner.params, (), start, keys[7:9], jnp.int32(0))
    np.testing.assert_array_equal(again.actions, acted.actions[7:9])
    later, _ = ppo.act(OBSERVER, learner.params, (), memory, keys, jnp.int32(1))
    assert not np.allclose(later.actions, acted.actions)


def test_the_image_of_a_step_shows_how_many_programs_have_been_run():
    images = np.asarray(StepObserver(7).images(()))[0]
    assert images.shape == (7, 16, 8, 8)
    assert images[:, 4].sum() == 7 * 28  # the walls
    assert images[:, [1, 6]].sum(axis=(2, 3)).tolist() == [[n, n] for n in range(7)]
    assert images.sum() == 7 * 28 + 2 * sum(range(7))
    assert images[3, 1, 1:4, 1].all()  # column by column
    np.testing.assert_array_equal(StepObserver(7).image((), jnp.int32(4))[0], images[4])


@pytest.mark.parametrize("size", [(8, 8), (3, 4)])
def test_the_image_of_a_state_shows_the_world(size):
    task = make("DoorKey")
    observer = StateObserver(task.world)
    states = task.layouts(range(2)).state
    image = np.asarray(observer.image(states, jnp.int32(0)))
    assert image.shape == (2, *observer.shape) == (2, 16, 8, 8)
    assert (image[:, :4].sum(axis=(1, 2, 3)) == 1).all()
    several = jax.tree.map(lambda leaf: np.stack([leaf] * 3, axis=1), states)
    np.testing.assert_array_equal(observer.images(several), np.stack([image] * 3, axis=1))
    small = networks.init(KEY, (16, *size), SIZE)  # images smaller than the filters are filled up
    means, values = networks.unroll(small, jnp.ones((1, 2, 16, *size)))
    assert (means.shape, values.shape) == ((1, 2, SIZE), (1, 2))
