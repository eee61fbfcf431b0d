"""Read the weights of a published program VAE from a PyTorch file, and write them as a model file for `--space`.

jaxprl convert leaps_vae_128.ptp --out leaps.npz
jaxprl run --task Maze --method leaps --space leaps.npz

A PyTorch file does not say which number stands for which token. The known orders of tokens are tried on random
programs, and the one in which the model gives programs back is taken; the figures are printed.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxprl.cli.common import command_parser, path, prepare_jax
from jaxprl.errors import UserError
from jaxprl.files import check_output
from jaxprl.latent import torch_reader, vocabularies


def main(arguments: Sequence[str]) -> int:
    parser = command_parser("convert", __doc__)
    parser.add_argument("file", type=path, help="what torch.save wrote: a state dict, or a list that begins with one")
    parser.add_argument("--out", type=path, required=True, help="the model file to write, like leaps.npz")
    known = ", ".join(vocabulary.name for vocabulary in vocabularies.KNOWN)
    parser.add_argument(
        "--vocabulary",
        help=f"the model's order of tokens: {known}, or a file with a JSON list or one token a line (default: the one "
        "of these that fits)",
    )
    options = parser.parse_args(arguments)
    vocabulary = None if options.vocabulary is None else vocabularies.named(options.vocabulary)
    if not options.file.is_file():
        raise UserError(f"{options.file}: there is no such file")
    if options.out.exists() and options.out.samefile(options.file):
        raise UserError(f"--out {options.out} is the file to read")
    check_output(options.out, "--out")
    prepare_jax()
    trials = torch_reader.tried(torch_reader.weights_of(options.file), vocabulary)
    for trial in trials:
        print(f"order {trial.in_words}")
    best = trials[0]
    best.space.save(options.out)
    print(f"{options.file}: {best.space.size} dimensions, tokens in the order {best.vocabulary.name}")
    print(f"model -> {options.out}")
    return 0
