"""A store: the directory that results are written to as they come.

    <path>/jobs/<name>.zarr   one zarr v3 group an ensemble, one chunk a block
    <path>/results.zarr       the assembled results, replaced as a whole

A block's numbers are written first and its completion marker `done` in a second write: the CRC-32
of settings, block and numbers, so that a block counts as done only where all of it is there and is
this ensemble's. Whatever is unfinished or damaged is computed again. One run at a time holds the
store. `xarray.open_zarr(place, consolidated=False, chunks=None)` reads a group.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning

from sdeverify.analysis.datasets.moments import BlockResult, Moments
from sdeverify.errors import StoreError
from sdeverify.study.layout import DAMAGED, NUMBERS, PROBE, JobLayout, member
from sdeverify.study.safe_files import reason, refused, replace_folder, scratch

if TYPE_CHECKING:
    import xarray as xr

    from sdeverify.ensembles.job import Job

_PATIENCE = 60.0
"""How long assembled results wait for another run's, in seconds."""
_ELSEWHERE = "Name another folder for the results."
_AGAIN = "run the study into this folder."
_ATTEMPTS = 40
_LONGEST = 200
"""Bytes in a part of a name; file systems take 255."""
_SCRATCH = re.compile(r"\..+-[0-9a-f]{12}|.+\.[0-9a-f]{32}\.partial")
"""What a killed run leaves half made: folders of this package and files of zarr."""
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


class Store:
    """The results under one directory.

    Args:
        path: the directory; made when the first ensemble is written.

    Example:
        >>> import tempfile
        >>> from dataclasses import replace
        >>> from sdeverify.testing.faults import correct_studies
        >>> study = replace(correct_studies()["sgd"], ladder=sv.SvagLevels([1, 2]), replicas=64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = sv.run(study, sv.Store(folder))
        ...     sorted(path.name for path in sv.Store(folder).path.iterdir())
        ['jobs', 'results.zarr']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.jobs = self.path / "jobs"
        self.results = self.path / "results.zarr"
        self._lock = FileLock(self.jobs / ".lock", thread_local=False)

    @contextmanager
    def locked(self, wait: float = 0.0) -> Iterator[None]:
        """Holds the store as the one run that writes into it; the lock ends with the process.

        Where the file system has no locks nothing is held.

        Args:
            wait: how long for another run, in seconds.

        Raises:
            StoreError: another run holds it, or the directory cannot be written to.
        """
        self.prepare()
        with ExitStack() as stack:
            try:
                stack.enter_context(self._lock.acquire(timeout=wait))
            except Timeout as error:
                raise StoreError(
                    f"another run is writing into {self.path}. Wait until it has ended, or name "
                    "another folder for the results."
                ) from error
            except NotImplementedError:
                pass
            except OSError as error:
                raise StoreError(
                    f"{self.path} cannot be used as a store: {reason(error)}. {_ELSEWHERE}"
                ) from error
            else:
                self._tidy()
            yield

    def prepare(self) -> None:
        """Makes the directory and tries to write into it.

        Raises:
            StoreError: it cannot be made or written to.
        """
        with refused(f"{self.path} cannot be used as a store", _ELSEWHERE):
            self.jobs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"sdeverify")

    def _tidy(self) -> None:
        """Removes what killed runs left half made."""
        for fresh in self.path.glob(f".{self.results.name}-*"):
            shutil.rmtree(fresh, ignore_errors=True)
        for folder, folders, files in os.walk(self.jobs):
            for name in filter(_SCRATCH.fullmatch, files):
                Path(folder, name).unlink(missing_ok=True)
            for name in filter(_SCRATCH.fullmatch, folders):
                shutil.rmtree(Path(folder, name), ignore_errors=True)

    def sink(
        self, name: str, job: Job, keep_replicas: bool = False, checked: bool = True
    ) -> StoredJob:
        """Where the blocks of one ensemble go; made where it is not there yet.

        Args:
            name: the ensemble's name, e.g. "sgd-svag/chain_0".
            job: the ensemble.
            keep_replicas: also hold every replica's values.
            checked: whether the first two replicas are computed again, to see that the code is
                still that of the blocks that are there.

        Raises:
            StoreError: the directory cannot be written to or has too little space, or holds
                this name with other settings, which are listed, or by other code.
        """
        place = self._place(name)
        layout = JobLayout.of(job, keep_replicas)
        if not place.exists():
            self.prepare()
            layout.create(place)
        return StoredJob(place, name, layout, layout.open(place, name, checked))

    def write_tree(self, tree: xr.DataTree) -> Path:
        """Saves assembled results, in the place of earlier ones.

        Raises:
            StoreError: the directory cannot be written to.
        """
        what = f"the results could not be written to {self.results}"
        remedy = "All blocks are kept: make room, then run the same command again."
        with self.locked(_PATIENCE), refused(what, remedy), scratch(self.results) as fresh:
            plain = tree.map_over_datasets(_plain_strings)
            plain.to_zarr(fresh, mode="w", consolidated=False, zarr_format=3)
            replace_folder(fresh, self.results)
        return self.results

    def read_tree(self) -> xr.DataTree:
        """The assembled results, in memory.

        Raises:
            StoreError: there are none, or they cannot be read.
        """
        for _ in range(_ATTEMPTS):
            version = self._version()
            if version is None and not any(self.path.glob(f".{self.results.name}-*")):
                raise StoreError(f"{self.path} holds no finished results; {_AGAIN}")
            results = self._read() if version is not None else None
            if results is not None and version == self._version():
                if isinstance(results, StoreError):
                    raise results
                return results
            time.sleep(0.05)
        raise StoreError(f"{self.results} is being replaced; read it when that run has ended.")

    def _read(self) -> xr.DataTree | StoreError:
        """The assembled results, which another run may be replacing, or why they are not read."""
        import xarray as xr

        options: dict[str, Any] = {"engine": "zarr", "consolidated": False, "chunks": None}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZarrUserWarning)  # of arrays that are going
                with xr.open_datatree(self.results, **options) as tree:
                    return tree.load().map_over_datasets(_plain_strings)
        except (*DAMAGED, KeyError, TypeError) as error:
            return StoreError(f"{self.results} cannot be read ({error}); {_AGAIN}")

    def _version(self) -> tuple[int, int] | None:
        """What changes when results take the place of earlier ones."""
        try:
            status = self.results.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _place(self, name: str) -> Path:
        if (
            not _NAME.fullmatch(name)
            or max(len(part.encode()) for part in name.split("/")) > _LONGEST
        ):
            raise StoreError(
                "an ensemble's name is made of letters, digits, '-', '_' and '.', with '/' "
                f"between its parts of at most {_LONGEST}; got {name!r}."
            )
        return self.jobs / f"{name}.zarr"


class StoredJob:
    """One ensemble in a store; the `Sink` that `run_job` takes."""

    def __init__(self, place: Path, name: str, layout: JobLayout, group: zarr.Group) -> None:
        self.place = place
        self.name = name
        self._layout = layout
        self._seal = layout.seal(group)
        self._position = {block.index: i for i, block in enumerate(layout.job.blocks)}
        self._numbers = [member(group, name) for name in NUMBERS if name in layout.arrays]
        self._done = member(group, "done")
        self._probe = member(group, PROBE)

    def check(self, job: Job) -> None:
        """Refuses another ensemble than the one that this place was made for.

        Raises:
            StoreError: with the settings that differ.
        """
        keeps = bool(self._layout.settings["keep_replicas"])
        differing = self._layout.differences(JobLayout.of(job, keeps))
        if differing:
            raise StoreError(
                f"{self.place} is the place of {self.name} with other settings:\n{differing}\nMake "
                "a sink for each ensemble."
            )

    def done(self) -> set[int]:
        """The numbers of the blocks whose completion marker is set and can be read."""
        try:
            marks = np.asarray(self._done[:]).tolist()
        except DAMAGED:
            marks = [self._mark(i) for i in range(len(self._position))]
        return {index for index, i in self._position.items() if marks[i]}

    def _mark(self, position: int) -> int:
        try:
            return int(np.asarray(self._done[position]))
        except DAMAGED:
            return 0

    def has(self, block: int) -> bool:
        """Whether the block is done and whole, read afresh."""
        return self._whole(self._position[block]) is not None

    def load(self) -> dict[int, BlockResult]:
        """The blocks that are done and whole."""
        results = {}
        for block in sorted(self.done()):
            rows = self._whole(self._position[block])
            if rows is not None:
                count = int(rows[0])
                values = rows[3][:count] if len(rows) > 3 else None
                results[block] = BlockResult(Moments(count, rows[1], rows[2]), values)
        return results

    def _whole(self, position: int) -> list[NDArray[Any]] | None:
        """A block's numbers, where they are those that its marker was made from, all of them."""
        try:
            rows = [np.asarray(array[position]) for array in self._numbers]
        except DAMAGED:
            return None
        size, mark = self._layout.job.blocks[position].size, self._mark(position)
        whole = mark and int(rows[0]) == size and mark == self._checksum(position, rows)
        return rows if whole else None

    def _checksum(self, position: int, rows: list[NDArray[Any]]) -> int:
        """CRC-32 of settings, block and numbers, never 0, which means 'not done'."""
        crc = zlib.crc32(f"{position} {self._seal}".encode())
        for row in rows:
            crc = zlib.crc32(np.ascontiguousarray(row).tobytes(), crc)
        return crc or 1

    def save(self, block: int, result: BlockResult) -> None:
        """Writes the block's numbers, then its completion marker.

        Raises:
            StoreError: no space is left or the directory cannot be written to any more.
        """
        moments = result.moments
        rows: list[NDArray[Any]] = [np.asarray(moments.count, np.int64)]
        rows += [np.asarray(m, np.float64) for m in (moments.mean, moments.comoment)]
        if len(self._numbers) > 3:
            rows.append(self._padded(result.values))
        position = self._position[block]
        try:
            if result.probe is not None:
                self._probe[...] = result.probe
            for array, row in zip(self._numbers, rows, strict=True):
                array[position] = row
            self._done[position] = np.uint32(self._checksum(position, rows))
        except OSError as error:
            raise StoreError(
                f"block {block} of {self.name} could not be written to {self.place}: "
                f"{reason(error)}. {self._kept()} Make room, then run the same command again: it "
                "goes on from there."
            ) from error

    def _padded(self, values: NDArray[np.float64] | None) -> NDArray[np.float64]:
        if values is None:
            raise StoreError(
                f"the store of {self.name} keeps every replica's values; this block came without. "
                "Run with keep_replicas=True."
            )
        padded = np.full(self._numbers[3].shape[1:], np.nan)
        padded[: len(values)] = values
        return padded

    def _kept(self) -> str:
        try:
            return f"{len(self.done())} of its {len(self._position)} blocks are kept."
        except OSError:
            return "Blocks written before are kept."


def _plain_strings(ds: xr.Dataset) -> xr.Dataset:
    """String variables as object dtype, the kind that every reader of xarray and zarr knows."""
    plain = {
        name: (variable.dims, variable.values.astype(object), variable.attrs)
        for name, variable in ds.variables.items()
        if variable.dtype.kind in "UT"
    }
    coords = {name: value for name, value in plain.items() if name in ds.coords}
    others = {name: value for name, value in plain.items() if name not in ds.coords}
    return ds.assign_coords(coords).assign(others)
