"""A whole version to another place, object by object: the bytes that were committed, checked on the way."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from atc_backtest.errors import StoreError
from atc_backtest.stores.building import appearing, check_free, writing_errors
from atc_backtest.stores.folder import Folder, is_url, open_folder
from atc_backtest.stores.layout import object_name
from atc_backtest.stores.manifest import Manifest, Object, commit, read_manifest
from atc_backtest.stores.reading import check_bytes

THREADS = 8
"""Objects on their way at a time: a wait each, far away."""


def copy_store(place: str | Path, dest: str | Path, progress: Callable[[int, int], None] | None = None) -> None:
    """The newest version at `place` as a store of its own at `dest`, where nothing is yet; whole or not at all.

    `progress` takes objects done and in all. `StoreError` when something is in the way or an object is damaged.
    """
    check_free(dest, overwrite=False)
    source = open_folder(place)
    manifest = read_manifest(source)
    objects = list(manifest.objects())
    what = f"copy of {source.place} (version {manifest.info.version})"
    with _empty_place(dest, what) as folder:

        def one(found: tuple[str, Object]) -> None:
            _copy(source, folder, *found)

        with ThreadPoolExecutor(THREADS, thread_name_prefix="copy") as pool:
            for done, _ in enumerate(pool.map(one, objects), 1):
                if progress is not None:
                    progress(done, len(objects))
        info = replace(manifest.info, id=secrets.token_hex(8), path=str(dest))
        base = Manifest(replace(info, version=info.version - 1), manifest.arrays)
        commit(folder, base, replace(manifest, info=info), what, sum(found.size for _, found in objects))


def _copy(source: Folder, dest: Folder, key: str, found: Object) -> None:
    name = object_name(key, found.version)
    data = source.map(name)
    try:
        check_bytes(data, found)
    except ValueError as error:
        raise StoreError(f"{source.place} is damaged: {name} ({error}). Nothing was copied.") from error
    dest.put(name, data)


@contextlib.contextmanager
def _empty_place(dest: str | Path, what: str) -> Iterator[Folder]:
    with writing_errors(str(dest)):
        if is_url(dest):
            folder = open_folder(dest)
            with folder.locked(what):
                yield folder
        else:
            with appearing(Path(dest), what) as hidden:
                yield hidden
