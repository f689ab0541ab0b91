"""Data frames that a package keeps as pickles, read with nothing allowed but what a frame is made of."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

ALLOWED = frozenset(
    {
        ("builtins", "slice"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("pandas._libs.internals", "_unpickle_block"),
        ("pandas.core.frame", "DataFrame"),
        ("pandas.core.indexes.base", "Index"),
        ("pandas.core.indexes.base", "_new_Index"),
        ("pandas.core.indexes.range", "RangeIndex"),
        ("pandas.core.internals.managers", "BlockManager"),
    }
)


class _FrameUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Frames pickled with NumPy 1 name its modules as they were then.
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) not in ALLOWED:
            raise ValueError(f"the file asks for {module}.{name}, which is no part of a data frame")
        return super().find_class(module, name)


def read_frame(body: bytes) -> pandas.DataFrame:
    """The data frame of a pickle.

    Only for files whose checksum is pinned; ValueError for anything that is not a plain data frame.
    """
    import pandas

    try:
        frame = _FrameUnpickler(io.BytesIO(body)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"not a data frame: {error}") from None
    if not isinstance(frame, pandas.DataFrame):
        raise ValueError("not a data frame")
    return frame
