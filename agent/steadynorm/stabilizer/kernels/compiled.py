"""A kernel of Triton's that is launched again and again, without asking each time which compiled one fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
from triton.compiler import CompiledKernel

# Launchers of versions before take no compile-time constants: there each launch goes through Triton's own search.
_TAKES_CONSTANTS = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)


class Compiled:
    """`kernel` on one device, with the same constants, the last of its parameters, and the same options.

    What Triton compiles depends on the types of the other arguments and on whether addresses are multiples of 16 and
    numbers of 1 or 16. The first is so for all memory that torch allocates; of the second kernels say with
    `do_not_specialize` that they do not depend on it. So what the first launch found holds for all that follow, and is
    a tenth of what the search costs.
    """

    def __init__(
        self, kernel: Any, constants: Mapping[str, object] | None = None, options: Mapping[str, object] | None = None
    ) -> None:
        self._kernel = kernel
        self._named = {**(constants or {}), **(options or {})}
        self._constants = tuple((constants or {}).values())
        self._found: CompiledKernel | None = None

    def launch(self, programs: int, *arguments: object) -> None:
        """On the current device, which must always be the same."""
        if self._found is not None:
            self._found[(programs, 1, 1)](*arguments, *self._constants)
            return
        found = self._kernel[(programs,)](*arguments, **self._named)
        if _TAKES_CONSTANTS and isinstance(found, CompiledKernel):  # the interpreter returns nothing
            self._found = found
