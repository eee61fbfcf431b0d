"""Applies a function to many elements: by a kernel of a GPU with a thread for each, or by threads of a CPU.

On a GPU a loop whose rounds differ from element to element would be thousands of small launches if it were vmapped. As
a kernel it is one. On a CPU the C compiler takes less time than XLA does, and all cores share the elements.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen import compiler, kept, prelude, stablehlo, text
from jaxprl.codegen.expressions import CUDA, C, c_type
from jaxprl.codegen.launch import Call, Launcher
from jaxprl.codegen.threads import cores, in_threads
from jaxprl.xla import guarded

MOST = 2**24
"""Rows of an array, at most: functions are translated for this size."""
BLOCK = 32
"""Threads of a block: few, so that even a small number of elements is spread over many multiprocessors."""
MOST_BLOCKS = 4096
SHARE = 16
"""Elements that a thread of a CPU takes at a time."""
_KERNEL = """
extern "C" __global__ void each(const int *numbers{given}{results})
{{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < numbers[0]; i += gridDim.x * blockDim.x)
        {name}(i, numbers[1]{passed});
}}
"""
_LOOP = """
void each(int32_t begin, int32_t end, int32_t number{given}{results})
{{
    for (int32_t i = begin; i < end; i++)
        {name}(i, number{passed});
}}
"""
Shapes = tuple[tuple[tuple[int, ...], str], ...]


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

    @guarded
    def __call__(
        self, launcher: Launcher, count: int, number: int | jax.Array, arrays: Sequence[jax.Array]
    ) -> list[jax.Array]:
        """Apply it to `count` elements by a kernel, as array code.

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
        written, results = _written(self, _shapes(arrays), True)
        if not count:  # there is no launch of nothing
            return [jnp.zeros((0, *shape), dtype) for shape, dtype in results]
        call = Call("each", min(MOST_BLOCKS, -(-count // BLOCK)), BLOCK)
        numbers = jnp.stack([jnp.int32(count), jnp.asarray(number, np.int32)])
        found = [jax.ShapeDtypeStruct((count, *shape), dtype) for shape, dtype in results]
        return launcher.launch(launcher.compiled(written), call, [numbers, *arrays], found)

    def natively(self, count: int, number: int, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Apply it to `count` elements by code of the C compiler; the arguments are those of a call.

        Raises:
          Unsupported: it has an operation that is not translated.
          Unavailable: the compiler fails.
        """
        given = [np.ascontiguousarray(array) for array in arrays]
        written, results = _written(self, _shapes(given), False)
        function = compiler.load(written, compiler.command()).each
        found = [np.empty((count, *shape), dtype) for shape, dtype in results]
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in (*given, *found)]

        def job(begin: int) -> None:
            function(begin, min(begin + SHARE, count), number, *addresses)

        in_threads([functools.partial(job, begin) for begin in range(0, count, SHARE)], cores())
        return found


def _shapes(arrays: Sequence[np.ndarray] | Sequence[jax.Array]) -> Shapes:
    return tuple((array.shape[1:], str(array.dtype)) for array in arrays)


_known: dict[str, tuple[str, Shapes]] = {}


def _written(each: Each, shapes: Shapes, is_cuda: bool) -> tuple[str, Shapes]:
    """Return the text of a function, in CUDA or in C, and the shapes and types of its results for one element."""
    name = kept.name_of([kept.version(), each.name, each.depends_on, repr(shapes), repr(is_cuda)]) + ".json"
    if name in _known:
        return _known[name]
    data = kept.read(name)
    if data is None:
        data = json.dumps(_translated(each, shapes, is_cuda)).encode()
        kept.write(name, data)
    written, results = json.loads(data)
    _known[name] = written, tuple((tuple(shape), dtype) for shape, dtype in results)
    return _known[name]


@guarded
def _translated(each: Each, shapes: Shapes, is_cuda: bool) -> tuple[str, Shapes]:
    number = jax.ShapeDtypeStruct((), np.int32)
    whole = [jax.ShapeDtypeStruct((MOST, *shape), dtype) for shape, dtype in shapes]
    rows = jax.eval_shape(lambda *args: list(each.function(*args)), number, number, *whole)
    results = tuple((row.shape, str(row.dtype)) for row in rows)

    def as_arrays(*args: Any) -> list[jax.Array]:
        return [jnp.atleast_1d(row) for row in each.function(*args)]

    function = stablehlo.translate(each.name, as_arrays, [number, number, *whole], ["i", "shared", *each.names])
    given = [f", const {c_type(dtype)} *{name}" for name, (_, dtype) in zip(each.names, shapes, strict=True)]
    named = list(zip(each.results, results, strict=True))
    places = [f", {name} + (int64_t)i * {max(1, int(np.prod(shape)))}" for name, (shape, _) in named]
    loop = (_KERNEL if is_cuda else _LOOP).format(
        name=each.name,
        given="".join(given),
        results="".join(f", {c_type(dtype)} *{name}" for name, (_, dtype) in named),
        passed="".join([*(f", {name}" for name in each.names), *places]),
    )
    head = prelude.CUDA_PRELUDE if is_cuda else prelude.PRELUDE
    return "\n".join([head, text.write(function, each.results, CUDA if is_cuda else C), loop]), results
