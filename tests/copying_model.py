"""Weights of a published architecture that need no training: a model that writes down programs and reads them out.

The encoder is a memory with a few places of some bits. A counter, which `DEF` sets, says which place is next; each
token that is a choice of the grammar is written to it, as a code, and advances the counter. The decoder counts the same
way over the tokens that it has written, and its next token is the one whose code is in the place that is next. It
leaves the forced tokens to the grammar. Tokens that the grammar never allows at the same place share codes, so that
most programs are lost if their tokens are numbered otherwise. Every state is -1 or 1, far into the saturation of tanh.
"""

import numpy as np

SIZE = 128
CHOICES = (
    ("m)", "move", "turnLeft", "turnRight", "pickMarker", "putMarker", "WHILE", "IF", "IFELSE", "REPEAT"),
    ("w)",), ("i)",), ("e)",), ("r)",),
    ("not", "frontIsClear", "leftIsClear", "rightIsClear", "markersPresent", "noMarkersPresent"),
    tuple(f"R={count}" for count in range(20)),
)  # fmt: skip
"""The tokens with a code, grouped so that those of a group need different ones. All others are forced."""
STRONG = 20.0


def copying_model(tokens, *, choices=CHOICES, bits=5, places=16):
    """The state dict, with flat names, of a model that numbers the tokens so."""
    words, memory = len(tokens), places * bits
    counter = slice(memory, memory + places)
    codes = np.zeros((words, bits))
    for number, word in (pair for words_of_one_place in choices for pair in enumerate(words_of_one_place)):
        codes[tokens.index(word)] = 2 * (number >> np.arange(bits) & 1) - 1
    is_choice, first = np.any(codes, axis=1).astype(float), tokens.index("DEF")

    def gru(*, writes):
        """Gates r, z, n. A unit keeps its state where z is 1, and takes the new one where it is 0."""
        w_i, w_h, bias = np.zeros((3, SIZE, words)), np.zeros((3, SIZE, SIZE)), np.zeros((3, SIZE))
        bias[:2] = STRONG
        w_i[1, counter] = -2 * STRONG * is_choice
        w_i[1, counter, first] = -2 * STRONG
        w_i[2, counter, first] = -3 * STRONG
        w_i[2, memory, first] = 3 * STRONG
        w_h[2, counter, counter] = STRONG * np.eye(places, k=-1)
        bias[2, memory] = -STRONG
        if writes:  # z is 0 for a choice at the place of the counter: 2 - 2 choice - counter is -1 there, else 1 or 3
            w_i[1, :memory] = -2 * STRONG * is_choice
            w_h[1, :memory, counter] = -STRONG * np.repeat(np.eye(places), bits, axis=0)
            bias[1, :memory] = 2 * STRONG
            w_i[2, :memory] = STRONG * np.tile(codes.T, (places, 1))
        return (leaf.reshape(3 * SIZE, -1) for leaf in (w_i, w_h, bias[..., None]))

    def cell(name, *, writes, latent=0):
        w_i, w_h, bias = gru(writes=writes)
        w_i = np.pad(w_i, ((0, 0), (0, latent)))
        parts = {"weight_ih_l0": w_i, "weight_hh_l0": w_h, "bias_ih_l0": bias[:, 0], "bias_hh_l0": 0 * bias[:, 0]}
        return {f"{name}.{part}": leaf for part, leaf in parts.items()}

    # A hidden unit is a bit of the place that is next, and -1 for all other places.
    hidden = np.zeros((SIZE, SIZE + words + SIZE))
    hidden[:memory, :memory] = STRONG * np.eye(memory)
    hidden[:memory, counter] = 2 * STRONG * np.repeat(np.eye(places), bits, axis=0)
    hidden_bias = np.where(np.arange(SIZE) < memory, -2 * STRONG, 0.0)
    out = np.pad(np.tile(codes, (1, places)), ((0, 0), (0, SIZE - memory)))
    mean = np.diag((np.arange(SIZE) < memory).astype(float))
    state = {
        "token_encoder.weight": np.eye(words),
        **cell("encoder_gru", writes=True),
        "encoder_mu.weight": mean, "encoder_mu.bias": np.zeros(SIZE),
        "encoder_log_sigma.weight": 0 * mean, "encoder_log_sigma.bias": np.full(SIZE, -2.0),
        **cell("decoder_gru", writes=False, latent=SIZE),
        "decoder_mlp.0.weight": hidden, "decoder_mlp.0.bias": hidden_bias,
        "decoder_mlp.2.weight": out, "decoder_mlp.2.bias": (places - 1) * codes.sum(axis=1),
    }  # fmt: skip
    return {name: leaf.astype(np.float32) for name, leaf in state.items()}
