"""Applies a function to many elements by a kernel with a thread for each, as array code.

On a GPU a loop whose rounds differ from element to element would be thousands of small launches if it were vmapped. As
a kernel it is one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen import kept, prelude, stablehlo, text
from jaxprl.codegen.launch import Call, Launcher

MOST = 2**24
"""Rows of an array, at most: functions are translated for so many."""
BLOCK = 32
"""Threads of a block, so that few elements are spread over many multiprocessors."""
MOST_BLOCKS = 4096
_KERNEL = """
extern "C" __global__ void each(const int *numbers{given}{results})
{{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < numbers[0]; i += gridDim.x * blockDim.x)
        {name}(i, numbers[1]{passed});
}}
"""


@dataclasses.dataclass(frozen=True)
class Each:
    """A function that is applied to the elements 0, 1, .. of something.

    Its arguments are the number of the element, int32, another number, int32, that all elements share, and whole
    arrays. It returns arrays, the rows of the element.
    """

    name: str
    function: Callable[..., Sequence[jax.Array]]
    names: tuple[str, ...]  # of the arrays
    results: tuple[str, ...]  # names of the results
    depends_on: str = ""  # what the function's text depends on besides the package and the shapes

    def __call__(
        self, launcher: Launcher, count: int, number: int | jax.Array, arrays: Sequence[jax.Array]
    ) -> list[jax.Array]:
        """Apply it to `count` elements.

        Args:
          launcher: where kernels run.
          count: how many elements there are.
          number: the number that all of them share.
          arrays: the arrays.

        Returns:
          The results, each with a leading axis [count].

        Raises:
          Unsupported: it has an operation that is not translated.
          Unavailable: kernels cannot be compiled or launched here.
        """
        shapes = tuple((array.shape[1:], str(array.dtype)) for array in arrays)
        written, results = _written(self, shapes)
        blocks = min(MOST_BLOCKS, -(-count // BLOCK))
        call = Call("each", blocks, BLOCK)
        numbers = jnp.stack([jnp.int32(count), jnp.asarray(number, np.int32)])
        found = [jax.ShapeDtypeStruct((count, *shape.shape), shape.dtype) for shape in results]
        return launcher.launch(launcher.compiled(written), call, [numbers, *arrays], found)


@functools.lru_cache(256)
def _written(
    each: Each, shapes: tuple[tuple[tuple[int, ...], str], ...]
) -> tuple[str, tuple[jax.ShapeDtypeStruct, ...]]:
    """Return the text of the kernel in CUDA, and the shapes of the results for one element."""
    number = jax.ShapeDtypeStruct((), np.int32)
    whole = [jax.ShapeDtypeStruct((MOST, *shape), dtype) for shape, dtype in shapes]
    results = tuple(jax.eval_shape(lambda *args: list(each.function(*args)), number, number, *whole))
    known = kept.name_of([kept.version(), each.name, each.depends_on, repr(shapes)]) + ".cu"
    found = kept.read(known)
    if found is not None:
        return found.decode(), results

    def as_arrays(*args: Any) -> list[jax.Array]:
        return [jnp.atleast_1d(row) for row in each.function(*args)]

    names = ["i", "shared", *each.names]
    function = stablehlo.translate(each.name, as_arrays, [number, number, *whole], names)
    given = [f", const {text.c_type(dtype)} *{name}" for name, (_, dtype) in zip(each.names, shapes, strict=True)]
    named = list(zip(each.results, results, strict=True))
    rows = [f", {name} + (int64_t)i * {max(1, int(np.prod(shape.shape)))}" for name, shape in named]
    written = "\n".join(
        [
            prelude.CUDA_PRELUDE,
            text.write(function, each.results, text.CUDA),
            _KERNEL.format(
                name=each.name,
                given="".join(given),
                results="".join(f", {text.c_type(str(shape.dtype))} *{name}" for name, shape in named),
                passed="".join([*(f", {name}" for name in each.names), *rows]),
            ),
        ]
    )
    kept.write(known, written.encode())
    return written, results
