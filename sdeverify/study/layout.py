"""How one ensemble lies in a zarr group: arrays by block, axes, and the settings behind them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.axes import BLOCK, OBSERVABLE, STEP
from sdeverify.analysis.datasets.identity import DOUBLE, IDENTITY, SINGLE, explained, moved
from sdeverify.ensembles.job import PROBED
from sdeverify.errors import StoreError
from sdeverify.study.safe_files import refused, scratch

if TYPE_CHECKING:
    from sdeverify.ensembles.job import Job

FORMAT = 2
"""Version of the layout; a group of another one is refused.

2: an identity among the settings, and the probe.
"""

PROBE = "probe"
"""The first two replicas' values, by which a change of code is seen."""
NOT_SMOOTH = 0.02
"""What rounding may move of an observable that jumps, such as accuracy."""

NUMBERS = ("block_count", "block_mean", "block_comoment", "block_values")
"""The arrays of a block's numbers; the last only where every replica's values are kept."""

_COUNTS = {"replicas", "block_sizes"}
"""The settings that a larger ensemble changes."""

DAMAGED = (OSError, ValueError, RuntimeError)
"""What reading a chunk raises that a crash of the machine cut off."""

_KINDS: dict[str, tuple[str, Any]] = {"block_count": ("int64", 0), "done": ("uint32", 0)}
_OTHERS = ("float64", np.nan)


@dataclass(frozen=True)
class JobLayout:
    """The group of one ensemble.

    Args:
        settings: what its numbers follow from, as plain JSON values.
        arrays: name -> dimensions and shape; one chunk a block.
        coordinates: name -> dimension and values.
        versions: of the packages, for the record.
    """

    settings: dict[str, Any]
    arrays: dict[str, tuple[tuple[str, ...], tuple[int, ...]]]
    coordinates: dict[str, tuple[str, NDArray[Any]]]
    versions: str
    job: Job

    @staticmethod
    def of(job: Job, keep_replicas: bool) -> JobLayout:
        """The layout of an ensemble's group."""
        coordinates = _coordinates(job)
        sizes = {dim: len(values) for name, (dim, values) in coordinates.items() if name == dim}
        sizes["member"] = max(block.size for block in job.blocks)
        sizes["probe_replica"] = min(PROBED, job.blocks[0].size)
        a, b = (_crossing(job)[:1], _crossing(job)) if job.crossed else ((), ())
        dims: dict[str, tuple[str, ...]] = {
            "block_count": (BLOCK,),
            "block_mean": (BLOCK, *a, STEP, OBSERVABLE),
            "block_comoment": (BLOCK, *b, STEP, OBSERVABLE),
            "done": (BLOCK,),
            PROBE: ("probe_replica", *a, STEP, OBSERVABLE),
        }
        if keep_replicas:
            dims["block_values"] = (BLOCK, "member", *a, STEP, OBSERVABLE)
        arrays = {name: (d, tuple(sizes[x] for x in d)) for name, d in dims.items()}
        versions = str(job.attrs.get("versions", ""))
        return JobLayout(_settings(job, keep_replicas), arrays, coordinates, versions, job)

    @property
    def nbytes(self) -> int:
        """What the arrays take at most, in bytes."""
        return 8 * sum(int(np.prod(shape)) for _, shape in self.arrays.values())

    def create(self, place: Path) -> None:
        """Builds the group aside and renames it into place; losing that race is no harm."""
        with refused(f"{place} could not be made", "Make room or name another folder."):
            place.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(place.parent).free
            if free < self.nbytes:
                raise OSError(errno.ENOSPC, f"{self.nbytes:,} bytes are needed, {free:,} are free")
            with scratch(place) as fresh:
                self._fill(zarr.create_group(fresh, zarr_format=3))
                try:
                    os.rename(fresh, place)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise

    def _fill(self, group: zarr.Group) -> None:
        for name, (dims, shape) in self.arrays.items():
            dtype, fill = _KINDS.get(name, _OTHERS)
            group.create_array(
                name,
                shape=shape,
                chunks=shape if name == PROBE else (1, *shape[1:]),
                chunk_key_encoding={"name": "default", "separator": "."},
                dtype=dtype,
                fill_value=fill,
                dimension_names=dims,
            )
        for name, (dim, values) in self.coordinates.items():
            array = group.create_array(
                name,
                shape=values.shape,
                chunks=values.shape,
                dtype=str if values.dtype.kind == "T" else values.dtype,
                dimension_names=(dim,),
            )
            array[:] = values
        group.attrs.update(
            {
                "coordinates": "time",
                "sdeverify_store": FORMAT,
                "settings": json.dumps(self.settings),
                "versions": self.versions,
            }
        )

    def open(self, place: Path, name: str, checked: bool = True) -> zarr.Group:
        """The group at `place`; one of fewer replicas is made larger, and its blocks are kept.

        Args:
            checked: whether the probe is computed again and compared.

        Raises:
            StoreError: it is no group of this layout, was made with other settings, or the first
                two replicas are not what they were.
        """
        remedy = f"Use another folder for the results, or remove {place}."
        try:
            group = zarr.open_group(place, mode="r+", zarr_format=3)
            version = group.attrs.get("sdeverify_store")
            stored = json.loads(str(group.attrs.get("settings", "{}")))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise StoreError(f"{place} cannot be read as an ensemble: {error}. {remedy}") from error
        if version != FORMAT:
            raise StoreError(
                f"{place} has the layout {version!r}; this version of sdeverify reads and writes "
                f"{FORMAT}. {remedy}"
            )
        differences = _differences(stored, self.settings)
        grows = bool(differences) and _grows(stored, self.settings)
        if differences and not grows:
            raise StoreError(f"{place} holds {name} with other settings:\n{differences}\n{remedy}")
        if checked:
            self._compare(group, f"{place} holds {name}", remedy)
        if grows:
            self._grow(group, stored, place)
        return group

    def differences(self, other: JobLayout) -> str:
        """The settings in which another ensemble differs, a line each; empty where none does."""
        return _differences(self.settings, other.settings)

    def seal(self, group: zarr.Group) -> str:
        """What all blocks of a group share, whatever their number, and no other group's do."""
        settings = json.loads(str(group.attrs["settings"]))
        return json.dumps({k: v for k, v in settings.items() if k not in _COUNTS}, sort_keys=True)

    def _compare(self, group: zarr.Group, what: str, remedy: str) -> None:
        """Refuses a group whose first replicas come out differently now."""
        try:
            if not bool(member(group, "done")[0]):
                return
        except DAMAGED:  # the first block is computed again, and the probe with it
            return
        try:
            before = np.asarray(member(group, PROBE)[...])
        except DAMAGED as error:
            raise StoreError(f"{what}, but its probe is damaged: {error}. {remedy}") from error
        now = self.job.probe()
        size = np.nanmax(np.abs(before), axis=tuple(range(before.ndim - 1)), initial=0.0)
        size = np.maximum(size, self.job.sizes or 0.0)
        shares = [
            _rounding(self.settings) if o.smooth else NOT_SMOOTH for o in self.job.observables
        ]
        off = np.abs(now - before) > np.asarray(shares) * size
        off |= np.isnan(now) != np.isnan(before)
        if not off.any():
            return
        place = tuple(int(i) for i in np.argwhere(off)[0])
        observable, step = self.job.observables[place[-1]].name, self.job.steps[place[-2]]
        raise StoreError(
            f"{what} that this code does not compute any more: '{observable}' of the first replica "
            f"{step:g} steps after the start was {before[place]:.6g} and is {now[place]:.6g}. "
            "Model, data, loss, optimizer, SDE, noise or an observable was edited, and old and new "
            f"blocks must not be mixed. {remedy}"
        )

    def _grow(self, group: zarr.Group, stored: Mapping[str, Any], place: Path) -> None:
        """Makes room for more blocks: a smaller last block is dropped, the settings come last.

        A process that is killed in between leaves the old settings, and the next one starts over.
        """
        last = len(_sizes(stored)) - 1
        with refused(f"{place} could not be made larger", "Make room or name another folder."):
            if _sizes(stored)[last] != _sizes(self.settings)[last]:
                member(group, "done")[last] = 0
            for name, (dims, shape) in self.arrays.items():
                if dims[0] == BLOCK:
                    member(group, name).resize(shape)
            _, blocks = self.coordinates[BLOCK]
            coordinate = member(group, BLOCK)
            coordinate.resize(blocks.shape)
            coordinate[:] = blocks
            counts = {key: self.settings[key] for key in _COUNTS if key in self.settings}
            group.attrs["settings"] = json.dumps({**stored, **counts})


def member(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of the group.

    Raises:
        StoreError: its description is lost or damaged.
    """
    try:
        array = group[name]
    except (*DAMAGED, KeyError, TypeError) as error:
        raise StoreError(
            f"the array '{name}' of {group.store_path} cannot be read: {error}. Remove this "
            "folder; its blocks are then computed again."
        ) from error
    assert isinstance(array, zarr.Array)
    return array


def _grows(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the settings differ in nothing but a larger number of replicas, cut the same way."""
    if {key for key in {*stored, *wanted} if _differ(key, stored, wanted)} - _COUNTS:
        return False
    before, now = _sizes(stored), _sizes(wanted)
    if len(before) > len(now) or sum(before) >= sum(now):
        return False
    return before[:-1] == now[: len(before) - 1] and max(before) == max(now)


def _sizes(settings: Mapping[str, Any]) -> list[int]:
    """The size of each block."""
    return [size for count, size in settings["block_sizes"] for _ in range(count)]


def _coordinates(job: Job) -> dict[str, tuple[str, NDArray[Any]]]:
    step = job.start_step + np.asarray(job.steps, np.float64)
    names = [observable.name for observable in job.observables]
    coordinates: dict[str, tuple[str, NDArray[Any]]] = {
        BLOCK: (BLOCK, np.asarray([block.index for block in job.blocks], np.int64)),
        STEP: (STEP, step),
        "time": (STEP, step * float(job.attrs["time_per_level1_step"])),
        OBSERVABLE: (OBSERVABLE, np.asarray(names, np.dtypes.StringDType())),
    }
    values = job.crossing[1]
    kind = np.dtypes.StringDType() if job.channels else np.int64
    for dim in _crossing(job) if job.crossed else ():
        coordinates[dim] = (dim, np.asarray(values, kind))
    return coordinates


def _crossing(job: Job) -> tuple[str, str]:
    """The two axes of crossed comoments."""
    axis = job.crossing[0]
    return axis, f"{axis}_bis"


def _settings(job: Job, keep_replicas: bool) -> dict[str, Any]:
    """All that the numbers follow from, versions left out: they may change between two runs."""
    settings = {key: value for key, value in sorted(job.attrs.items()) if key != "versions"}
    settings |= {
        "steps": [float(step) for step in job.steps],
        "observables": [observable.name for observable in job.observables],
        "substeps": [int(substeps) for substeps in job.substeps],
        "block_sizes": _runs([block.size for block in job.blocks]),
        "keep_replicas": keep_replicas,
        **({"channels": list(job.channels)} if job.channels else {}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return "\n".join(
        f"  {key}: {_short(stored.get(key))} there, {_short(wanted.get(key))} now"
        if key != IDENTITY
        else "  " + "; ".join(map(explained, _moved(stored, wanted)))
        for key in sorted({*stored, *wanted})
        if _differ(key, stored, wanted)
    )


def _differ(key: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a setting is another one; an identity may have moved by rounding."""
    if key == IDENTITY and key in stored and key in wanted:
        return bool(_moved(stored, wanted))
    return bool(stored.get(key) != wanted.get(key))


def _moved(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return moved(stored[IDENTITY], wanted[IDENTITY], _rounding(wanted))


def _rounding(settings: Mapping[str, Any]) -> float:
    """The share of a number that rounding may take in these settings' precision."""
    return DOUBLE if settings.get("dtype", "float64") == "float64" else SINGLE


def _runs(sizes: list[int]) -> list[list[int]]:
    """Block sizes as [how many, size] pairs."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    return runs


def _short(value: Any, width: int = 200) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= width else f"{text[:width]}..."
