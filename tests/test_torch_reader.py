"""Weights of published models mean here what they mean in PyTorch, and their tokens what they mean to the model."""

import importlib.util
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from copying_model import CHOICES, copying_model

from jaxprl.cli.main import main
from jaxprl.dsl import encode, text
from jaxprl.dsl.sample import random_programs
from jaxprl.errors import UserError
from jaxprl.latent import torch_reader, vae
from jaxprl.latent.space import LatentSpace
from jaxprl.latent.torch_reader import PROGRAMS, from_state_dict, tried
from jaxprl.latent.vocabularies import CARVALHO, KNOWN, LEAPS, Vocabulary, named
from jaxprl.worlds.karel.world import LANGUAGE as KAREL

TOKENS = LEAPS.tokens
LATENT, WORDS = 12, len(TOKENS)
HAS_TORCH = importlib.util.find_spec("torch") is not None
SHAPES = {
    "encoder.token_encoder.weight": (WORDS, WORDS),
    "encoder.gru.weight_ih_l0": (3 * LATENT, WORDS),
    "encoder.gru.weight_hh_l0": (3 * LATENT, LATENT),
    "encoder.gru.bias_ih_l0": (3 * LATENT,),
    "encoder.gru.bias_hh_l0": (3 * LATENT,),
    "_enc_mu.weight": (LATENT, LATENT),
    "_enc_mu.bias": (LATENT,),
    "_enc_log_sigma.weight": (LATENT, LATENT),
    "_enc_log_sigma.bias": (LATENT,),
    "decoder.token_encoder.weight": (WORDS, WORDS),
    "decoder.gru.weight_ih_l0": (3 * LATENT, WORDS + LATENT),
    "decoder.gru.weight_hh_l0": (3 * LATENT, LATENT),
    "decoder.gru.bias_ih_l0": (3 * LATENT,),
    "decoder.gru.bias_hh_l0": (3 * LATENT,),
    "decoder.token_output_layer.0.weight": (LATENT, 2 * LATENT + WORDS),
    "decoder.token_output_layer.0.bias": (LATENT,),
    "decoder.token_output_layer.2.weight": (WORDS, LATENT),
    "decoder.token_output_layer.2.bias": (WORDS,),
}
FLAT = {
    "encoder.token_encoder": "token_encoder", "encoder.gru": "encoder_gru", "_enc_mu": "encoder_mu",
    "_enc_log_sigma": "encoder_log_sigma", "decoder.gru": "decoder_gru", "decoder.token_output_layer": "decoder_mlp",
}  # fmt: skip


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {f"vae.{name}": (0.4 * rng.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}
    return found | {"condition_policy.action_encoder.weight": np.zeros((6, 6), np.float32)}


def ids(program) -> list[int]:
    return [TOKENS.index(word) for word in str(program).split()]


def numpy_cell(part: dict, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """A step of PyTorch's GRU as its documentation has it, gate by gate."""

    def gate(index: int, side: str, value: np.ndarray) -> np.ndarray:
        rows = slice(index * LATENT, (index + 1) * LATENT)
        return part[f"weight_{side}_l0"][rows] @ value + part[f"bias_{side}_l0"][rows]

    r = 1 / (1 + np.exp(-(gate(0, "ih", x) + gate(0, "hh", h))))
    z = 1 / (1 + np.exp(-(gate(1, "ih", x) + gate(1, "hh", h))))
    n = np.tanh(gate(2, "ih", x) + r * gate(2, "hh", h))
    return (1 - z) * n + z * h


def numpy_model(state: dict, program: list[int], z: np.ndarray | None):
    """Mean and logits behind each token but the last, in the published vocabulary."""
    state = {name.removeprefix("vae."): leaf.astype(np.float64) for name, leaf in state.items()}

    def below(prefix: str) -> dict:
        return {name.removeprefix(prefix): leaf for name, leaf in state.items() if name.startswith(prefix)}

    h = np.zeros(LATENT)
    for token in program:
        h = numpy_cell(below("encoder.gru."), state["encoder.token_encoder.weight"][token], h)
    mean = state["_enc_mu.weight"] @ h + state["_enc_mu.bias"]
    z = mean if z is None else z
    h, rows = z, []
    for token in program[:-1]:
        embedded = state["decoder.token_encoder.weight"][token]
        h = numpy_cell(below("decoder.gru."), np.concatenate([embedded, z]), h)
        layer = state["decoder.token_output_layer.0.weight"] @ np.concatenate([h, embedded, z])
        hidden = np.tanh(layer + state["decoder.token_output_layer.0.bias"])
        rows.append(state["decoder.token_output_layer.2.weight"] @ hidden + state["decoder.token_output_layer.2.bias"])
    return mean, np.array(rows)


def torch_model(state: dict, program: list[int], z: np.ndarray | None):
    import torch

    tensors = {name.removeprefix("vae."): torch.tensor(leaf) for name, leaf in state.items()}

    def cell(name: str, inputs: int):
        module = torch.nn.GRU(inputs, LATENT)
        module.load_state_dict({n.removeprefix(name): t for n, t in tensors.items() if n.startswith(name)})
        return module

    with torch.no_grad():
        tokens = torch.tensor(program)
        _, h = cell("encoder.gru.", WORDS)(tensors["encoder.token_encoder.weight"][tokens][:, None])
        mean = torch.nn.functional.linear(h[0], tensors["_enc_mu.weight"], tensors["_enc_mu.bias"])
        z = mean if z is None else torch.tensor(z)[None]
        embedded = tensors["decoder.token_encoder.weight"][tokens[:-1]][:, None]
        repeated = z[None].expand(len(program) - 1, -1, -1)
        out, _ = cell("decoder.gru.", WORDS + LATENT)(torch.cat([embedded, repeated], dim=-1), z[None])
        first, last = (f"decoder.token_output_layer.{i}." for i in (0, 2))
        joined = torch.cat([out, embedded, repeated], dim=-1)
        hidden = torch.tanh(torch.nn.functional.linear(joined, tensors[first + "weight"], tensors[first + "bias"]))
        rows = torch.nn.functional.linear(hidden, tensors[last + "weight"], tensors[last + "bias"])
        return mean[0].numpy(), rows[:, 0].numpy()


MODELS = [
    numpy_model,
    pytest.param(torch_model, marks=pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")),
]


@pytest.mark.parametrize("model", MODELS)
def test_networks_are_equal(model):
    state = weights()
    space = from_state_dict(state, TOKENS)
    grammar = space.grammar
    theirs = [TOKENS.index(word) for word in grammar.words]
    logits = jax.jit(vae.logits)
    for nodes in np.asarray(random_programs(KAREL, jax.random.split(jax.random.key(0), 12))):
        program = ids(encode.decode(nodes, KAREL))
        mean, rows = model(state, program, None)
        np.testing.assert_allclose(space.encode(nodes), mean, atol=1e-4)
        words = [grammar.id_of[TOKENS[token]] for token in program[:-1]]
        tokens = jnp.asarray([words + [grammar.padding] * (44 - len(words))], jnp.int32)
        scores = logits(space.params, jnp.asarray(mean, jnp.float32)[None], tokens)
        np.testing.assert_allclose(scores[: len(words), 0], rows[:, theirs], atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_decodings_are_equal(model):
    """Each decoded token is the likeliest of those that continue some program, by the other model's numbers."""
    state = weights()
    space = from_state_dict(state, TOKENS)
    z = np.random.default_rng(1).normal(size=(4, LATENT)).astype(np.float32)
    programs, valid = space.decode(z)
    told = 0
    for latent, nodes, fine in zip(z, np.asarray(programs), np.asarray(valid), strict=True):
        if not fine:
            continue
        program = ids(encode.decode(nodes, KAREL))
        _, rows = model(state, program, latent)
        for step, scores in enumerate(rows):
            allowed = _continuations(program[: step + 1])
            assert scores[program[step + 1]] >= max(scores[token] for token in allowed) - 1e-4
            told += len(allowed) > 1
    assert told > 10


def _continuations(prefix: list[int]) -> list[int]:
    """The tokens after which the text can still become a program of 45 tokens, found by the parser: by closing what
    is open in the shortest way."""
    words = [TOKENS[token] for token in prefix]
    return [index for index, word in enumerate(TOKENS[:-1]) if _can_end([*words, word])]


def _can_end(words: list[str]) -> bool:
    for _ in range(46 - len(words)):
        try:
            text.from_text(" ".join(words), KAREL)
        except text.ParseError as error:
            if error.position < len(words):
                return False
            expected = str(error)
        else:
            return True
        words = [*words, _shortest(expected)]
    return False


def _shortest(expected: str) -> str:
    """The word that closes soonest, of those that the parser's message says it expects."""
    for word in ("m)", "w)", "i)", "r)", "e)"):
        if f"expected {word} or" in expected:
            return word
    for start, word in (("a statement", "move"), ("a condition", "frontIsClear"), ("a count", "R=0")):
        if f"expected {start}" in expected:
            return word
    return expected.split("expected '")[1].split("'")[0]


def test_flat_names_are_read_too():
    state = weights()
    state = state | {"vae.decoder.token_encoder.weight": state["vae.encoder.token_encoder.weight"]}
    flat = {}
    for name, leaf in state.items():
        short = name.removeprefix("vae.")
        for theirs, ours in FLAT.items():
            if short.startswith(theirs):
                flat[ours + short.removeprefix(theirs)] = leaf
    jax.tree.map(
        np.testing.assert_array_equal, from_state_dict(flat, TOKENS).params, from_state_dict(state, TOKENS).params
    )


def test_what_does_not_fit_is_named():
    state = weights()
    with pytest.raises(UserError, match=r"has no _enc_mu\.weight"):
        from_state_dict({name: leaf for name, leaf in state.items() if name != "vae._enc_mu.weight"}, TOKENS)
    with pytest.raises(UserError, match=r"decoder\.gru\.weight_hh_l0 has shape \(3, 3\), expected \(36, 12\)"):
        from_state_dict(state | {"vae.decoder.gru.weight_hh_l0": np.zeros((3, 3))}, TOKENS)
    with pytest.raises(UserError, match="vocabulary is not that of karel: HOLE"):
        from_state_dict(state, (*TOKENS, "HOLE"))


def shuffled(*, keep=1):
    """An order that no published model has; the first tokens stay."""
    rest = list(TOKENS[keep:-1])
    random.Random(0).shuffle(rest)
    return (*TOKENS[:keep], *rest, TOKENS[-1])


OTHER = Vocabulary("other", "this test", shuffled())


def programs_of(count=24):
    """Random programs that the copying model has room for."""
    drawn = np.asarray(random_programs(KAREL, jax.random.split(jax.random.key(7), 4 * count)))
    return np.stack([row for row in drawn if text.token_count(encode.decode(row, KAREL)) < 20][:count])


@pytest.mark.parametrize("order", [*KNOWN, OTHER], ids=lambda order: order.name)
def test_a_model_is_read_in_the_order_in_which_it_gives_programs_back(order):
    trials = tried(copying_model(order.tokens), None if order in KNOWN else order)
    assert (trials[0].vocabulary, trials[0].back) == (order, PROGRAMS)
    assert {trial.vocabulary for trial in trials} == ({*KNOWN} if order in KNOWN else {order})
    assert all(trial.back < PROGRAMS / 2 for trial in trials[1:])
    space, programs = trials[0].space, programs_of()
    decoded, valid = space.decode(space.encode(programs))
    assert valid.all()
    np.testing.assert_array_equal(decoded, programs)
    assert space.origin.command.endswith(f"in the order {order.name}")
    assert space.origin.report["back"][order.name] == PROGRAMS


@pytest.mark.parametrize("order", KNOWN, ids=lambda order: order.name)
def test_a_model_that_gives_some_programs_back_gives_none_back_in_a_wrong_order(order):
    best, other = tried(copying_model(order.tokens, places=4))
    assert (best.vocabulary, other.vocabulary) in (KNOWN, KNOWN[::-1])
    assert best.vocabulary == order
    assert best.back > PROGRAMS / 3
    assert other.back == 0


def test_a_model_is_refused_if_its_order_cannot_be_told():
    with pytest.raises(UserError, match=r"does not give programs back.*leaps .*: 0 of 256.*carvalho .*: 0 of 256"):
        tried(weights())  # which was never trained
    with pytest.raises(UserError, match=r"should: leaps .*: 0 of 256 programs come back; --vocabulary"):
        tried(weights(), LEAPS)
    for order in (None, CARVALHO):
        with pytest.raises(UserError, match=r"as at least 12 of 256 should: carvalho .*: 10 of 256"):
            tried(copying_model(CARVALHO.tokens, places=2), order)
    with pytest.raises(UserError, match=r"no order of tokens stands out: leaps .* programs come back; carvalho .*"):
        tried(copying_model(OTHER.tokens))
    broken = copying_model(CARVALHO.tokens)
    with pytest.raises(UserError, match="does not give programs back"):
        tried(broken | {"encoder_mu.weight": np.full_like(broken["encoder_mu.weight"], np.nan)})
    without_categories = copying_model(LEAPS.tokens, choices=(sum(CHOICES, ()),), bits=6)
    with pytest.raises(UserError, match=r"no order of tokens stands out: leaps .*: 256 of .*; carvalho .*names the"):
        tried(without_categories)
    assert tried(without_categories, LEAPS)[0].back == PROGRAMS


def test_an_order_is_named_or_read_from_a_file(tmp_path):
    assert (named("leaps"), named("carvalho")) == KNOWN
    files = {
        "list.json": json.dumps(OTHER.tokens),
        "spread.json": "\n" + json.dumps(OTHER.tokens, indent=2),
        "lines.txt": "\n".join(OTHER.tokens),
        "windows.txt": "\ufeff" + "\r\n".join(OTHER.tokens) + "\r\n\r\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode())
        found = named(str(tmp_path / name))
        assert (found.name, found.tokens) == (name, OTHER.tokens)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither a known order .leaps, carvalho. nor a file"),
        (b"", "expected the tokens in their order"),
        (b" \n\n", "expected the tokens in their order"),
        (b"[]", "expected the tokens in their order"),
        (b'["DEF", 3]', "expected the tokens in their order"),
        (b'["DEF", ', "expected the tokens in their order"),
        (b'{"DEF": 0}', "expected the tokens in their order"),
        (b"[" * 50_000, "expected the tokens in their order"),
        (b"DEF\n\xff\xfe", "not text in UTF-8: byte 0xff in line 2"),
        (b"\xff\xfeD\0", "text in UTF-16"),
        (b"move\n" * 100_000, "a file of more than 65,536 bytes"),
    ],
)
def test_a_file_of_no_tokens_is_refused(content, message, tmp_path):
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        named(str(file))
    with pytest.raises(UserError, match="Is a directory"):
        named(str(tmp_path))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS[:-1], "the vocabulary is not that of karel: <pad>"),
        ((*TOKENS, "HOLE"), "the vocabulary is not that of karel: HOLE"),
        ((*TOKENS, "move"), "a word comes twice"),
        (("def", *TOKENS[1:]), "DEF, def"),
    ],
)
def test_a_vocabulary_with_other_words_is_refused(tokens, message):
    with pytest.raises(UserError, match=message):
        tried(weights(), Vocabulary("mine", "this test", tuple(tokens)))


def converted(*words):
    return main(["convert", *map(str, words)])


def test_the_command_checks_what_it_is_asked_for(tmp_path, capsys):
    file, out = tmp_path / "model.ptp", tmp_path / "model.npz"
    file.write_bytes(b"weights")
    for words, message in (
        ((file, "--out", out, "--vocabulary", "leap"), "vocabulary 'leap': neither a known order"),
        ((file, "--out", out, "--vocabulary", file.parent), "Is a directory"),
        ((tmp_path / "none.ptp", "--out", out), "none.ptp: there is no such file"),
        ((tmp_path, "--out", out), "there is no such file"),
        ((file, "--out", tmp_path / "none" / "model.npz"), "there is no folder"),
        ((file, "--out", tmp_path), "a folder, not a file"),
        ((file, "--out", file), "is the file to read"),
        ((file, "--out", out), "is no file of PyTorch weights" if HAS_TORCH else "pip install 'jaxprl[torch]'"),
    ):
        assert converted(*words) == 2
        assert message in capsys.readouterr().err
    assert file.read_bytes() == b"weights"
    assert [path.name for path in tmp_path.iterdir()] == ["model.ptp"]


def test_a_file_of_pytorch_is_no_model_file(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(UserError, match=r"other\.npz cannot be read: .*jaxprl convert"):
        LatentSpace.load(tmp_path / "other.npz")


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: [state, None]], ids=["state", "list"])
def test_a_saved_file_becomes_a_model_file(wrap, tmp_path, capsys):
    import torch

    state = {name: torch.tensor(leaf) for name, leaf in copying_model(CARVALHO.tokens).items()}
    torch.save(wrap(state | {"policy_mlp.0.weight": torch.zeros(3, dtype=torch.bfloat16)}), tmp_path / "model.ptp")
    assert converted(tmp_path / "model.ptp", "--out", tmp_path / "model.npz") == 0
    printed = capsys.readouterr().out
    assert f"order carvalho ({CARVALHO.source}): 256 of 256 programs come back\norder leaps" in printed
    assert "128 dimensions, tokens in the order carvalho" in printed
    space, programs = LatentSpace.load(tmp_path / "model.npz"), programs_of()
    np.testing.assert_array_equal(space.decode(space.encode(programs))[0], programs)
    loaded = torch_reader.load(tmp_path / "model.ptp")
    assert loaded.checksum == space.checksum
    assert loaded.origin == space.origin
    assert converted(tmp_path / "model.ptp", "--out", tmp_path / "other.npz", "--vocabulary", "leaps") == 0
    assert "order leaps" in capsys.readouterr().out


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@pytest.mark.parametrize("content", [3, [], {"name": 3}, {"weights": {}}, [[1]]])
def test_a_file_with_other_content_is_refused(content, tmp_path, capsys):
    import torch

    torch.save(content, tmp_path / "model.ptp")
    assert converted(tmp_path / "model.ptp", "--out", tmp_path / "model.npz") == 2
    assert capsys.readouterr().err.startswith("error: ")
    torch.save({"run": print}, tmp_path / "model.ptp")
    assert converted(tmp_path / "model.ptp", "--out", tmp_path / "model.npz") == 2
    assert "is no file of PyTorch weights" in capsys.readouterr().err


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch is installed")
def test_a_missing_torch_is_told(tmp_path):
    with pytest.raises(UserError, match=r"jaxprl\[torch\]"):
        torch_reader.load(tmp_path / "model.ptp")
