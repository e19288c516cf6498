"""Blosc and pcodec behind four functions: arrays of numbers to bytes and back, in the thread of the caller."""

from __future__ import annotations

from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError, UnavailableError

U8 = NDArray[np.uint8]

MOST_BYTES = 2**31 - 4096
"""Blosc compresses no more in one go."""
BLOCK_BYTES = (1 << 15, 1 << 17)
"""Least and most of a Blosc block: a row of 16,384 bars of 2 bytes, each with statistics of its own."""
SAMPLE_BYTES = 1 << 16

# One flag for the process: Blosc lets other threads run. Every call below has a context of one thread for itself.
blosc2.set_releasegil(True)


def damaged(what: str) -> DataError:
    return DataError(f"damaged chunk: {what}. Restore it from a copy or write it again.")


def pack_blosc(numbers: NDArray[Any], level: int, row_bytes: int, *, plain: bool = False) -> bytes:
    """Empty for empty. `row_bytes`: what has statistics of its own; `plain` without bitshuffle."""
    if numbers.size == 0:
        return b""
    found: bytes = blosc2.compress2(
        numbers,
        codec=blosc2.Codec.ZSTD,
        clevel=level,
        typesize=numbers.itemsize,
        filters=[blosc2.Filter.NOFILTER if plain else blosc2.Filter.BITSHUFFLE],
        filters_meta=[0],
        splitmode=blosc2.SplitMode.NEVER_SPLIT if plain else blosc2.SplitMode.ALWAYS_SPLIT,
        blocksize=min(max(row_bytes, BLOCK_BYTES[0]), BLOCK_BYTES[1]),
        nthreads=1,
    )
    return found


def pack_floats(numbers: NDArray[np.float64], level: int, row_bytes: int) -> bytes:
    """Numbers without ticks: bitshuffle where a sample says that it helps, which it does not for repeated ones."""
    sample = numbers[: SAMPLE_BYTES // 8]
    tried = [len(pack_blosc(sample, level, row_bytes, plain=plain)) for plain in (False, True)]
    return pack_blosc(numbers, level, row_bytes, plain=tried[1] < tried[0])


def unpacked_bytes(data: U8) -> int:
    """What Blosc says `data` unpacks to."""
    if data.size < 32:
        raise damaged(f"{data.size} bytes where Blosc writes 32 or more")
    n_bytes, packed, _ = blosc2.get_cbuffer_sizes(data.tobytes()[:32])
    if packed != data.size or n_bytes < 0:
        raise damaged(f"{data.size:,} bytes where Blosc says {packed:,}")
    return int(n_bytes)


def unpack_blosc(data: U8, numbers: NDArray[Any]) -> None:
    """Fills `numbers`, which must be as long as what was packed."""
    if numbers.size == 0 and data.size == 0:
        return
    if unpacked_bytes(data) != numbers.nbytes:
        raise damaged(f"a part of other length than the {numbers.nbytes:,} bytes its table says")
    try:
        blosc2.decompress2(data, numbers, nthreads=1)
    except (RuntimeError, ValueError) as error:
        raise damaged(f"Blosc: {error}") from error


def _pcodec() -> tuple[Any, Any]:
    try:
        import pcodec
        from pcodec import standalone
    except ImportError as error:
        raise UnavailableError(
            f"pcodec is not installed ({error}), and prices compressed by it were asked for: "
            "pip install 'atc-backtest[pcodec]', or choose the codec blosc."
        ) from error
    return pcodec, standalone


def pack_pcodec(numbers: NDArray[Any], level: int, rows: list[int], *, differences: bool) -> bytes:
    """Empty for empty. `rows`: how many numbers have statistics of their own, one after another.

    `differences`: the numbers are such already, and taking more of them does not help.
    """
    if numbers.size == 0:
        return b""
    pcodec, standalone = _pcodec()
    settings = pcodec.ChunkConfig(
        compression_level=level,
        delta_spec=pcodec.DeltaSpec.no_op() if differences else pcodec.DeltaSpec.auto(),
        paging_spec=pcodec.PagingSpec.exact_page_sizes(rows),
    )
    found: bytes = standalone.simple_compress(numbers, settings)
    return found


def unpack_pcodec(data: U8, numbers: NDArray[Any]) -> None:
    """Fills `numbers`, which must be as long as what was packed. One call: short ones keep other threads waiting."""
    if numbers.size == 0 and data.size == 0:
        return
    _, standalone = _pcodec()
    try:
        progress = standalone.simple_decompress_into(data.tobytes(), numbers)
    except (RuntimeError, TypeError) as error:
        raise damaged(f"pcodec: {error}") from error
    if progress.n_processed != numbers.size or not progress.finished:
        raise damaged(f"pcodec: {progress.n_processed:,} numbers where {numbers.size:,} belong")
