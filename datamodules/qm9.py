"""QM9 in the files of its authors, or in files laid out like them."""

from __future__ import annotations

import hashlib
import inspect
import os
import urllib.request
import warnings
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import Progress
from tag_lightning.datamodules import qm9_files
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.molecule_store import Molecules, cached, content_key
from tag_lightning.datamodules.molecules import QM9_ELEMENTS, MoleculeDataModule
from tag_lightning.datamodules.qm9_files import ARCHIVE, MOLECULES, UNCHARACTERIZED, UNCHARACTERIZED_FILE
from torch import Tensor

from tag_lightning.chemistry import units


class Download(NamedTuple):
    """A file of the authors' collection.

    Attributes:
        name: On disk.
        url: Where it is.
        md5: What the collection publishes for it.
    """

    name: str
    url: str
    md5: str


# Collection 978904 of figshare, which doi 10.1038/sdata.2014.22 refers to. The list comes first: molecules without
# it would be taken for all there is to fetch.
OFFICIAL = (
    Download(
        UNCHARACTERIZED_FILE, "https://ndownloader.figshare.com/files/3195404", "a361887bacb427b8a0ce7903d92a53b4"
    ),
    Download(ARCHIVE, "https://ndownloader.figshare.com/files/3195389", "ad1ebd51ee7f5b3a6e32e974e5d54012"),
)
_TIMEOUT_SECONDS = 60
_KEPT = MOLECULES - UNCHARACTERIZED
_EDM_TRAIN = 100_000


class QM9DataModule(MoleculeDataModule):
    """QM9 (Ramakrishnan et al. 2014): molecules of up to nine atoms of C, N, O and F, 29 with hydrogen.

    Read from ``gdb9.sdf`` with ``gdb9.sdf.csv``, from ``dsgdb9nsd_NNNNNN.xyz`` files or from the authors' archive of
    those, in ``root`` or a folder in it; what ``uncharacterized.txt`` there lists is left out. The splits are those
    of EDM (Hoogeboom et al. 2022): 100,000 / 17,748 / 13,083 by a permutation of the molecules in the order of
    their indices, and their proportions where there are fewer. EDM judges by the first half and generates by
    the second. A molecule falls into the same split and half whatever the layout.

    Args:
        root: The folder.
        download: Fetch the authors' archive and list where ``root`` has no molecules.
        properties: ``mu``, ``alpha``, ``homo``, ``lumo``, ``gap``, ``r2``, ``zpve``, ``u0``, ``u298``, ``h298``,
            ``g298``, ``cv``, ``A``, ``B`` or ``C``, in the units of ``tag_lightning.chemistry.units``; no references
            of atoms are subtracted, neither from energies nor from ``cv``.
        cache: Folder for the prepared molecules; null prepares them anew in every run.
        elements: Symbols, in the order of the one-hot columns; molecules with others are left out.
        max_atoms: Larger molecules are left out; null keeps all.
        batch_size: Molecules a batch and process.
        num_workers: Processes that prepare batches; 0 is fastest, since the molecules sit in memory.
        seed: Seed of the training order. The splits do not depend on it.
        half: Train on one half of the training molecules only, so that a guide and a judge share none.

    Raises:
        ValueError: A property that QM9 does not have.
    """

    name = "qm9"
    feature_scale = 8.0  # of the published generator without atomic numbers

    def __init__(
        self,
        root: str = "data/qm9",
        download: bool = False,
        properties: Sequence[str] = ("alpha", "mu", "homo", "lumo", "gap"),
        cache: str | None = "data/molecules",
        elements: Sequence[str] = QM9_ELEMENTS,
        max_atoms: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        half: Literal["first", "second"] | None = None,
    ) -> None:
        super().__init__(properties, elements, max_atoms, batch_size, num_workers, seed, half, cache)
        for name in self.properties:
            units.property_of(name)
        self.root = Path(root)
        self.download = download

    def prepare_data(self) -> None:
        if self.download and qm9_files.find_layout(self.root) is None:
            for file in OFFICIAL:
                _fetch(file, self.root)
        super().prepare_data()

    def load(self) -> Molecules:
        layout = qm9_files.find_layout(self.root)
        if layout is None:
            raise FileNotFoundError(
                f"QM9 is not in {self.root}; expected gdb9.sdf with gdb9.sdf.csv, dsgdb9nsd_*.xyz or {ARCHIVE} there "
                "or in a folder in it. Set data.init_args.root, or data.init_args.download=true"
            )
        folders = (layout.files[0].parent, self.root)
        lists = [path for folder in folders if (path := folder / UNCHARACTERIZED_FILE).is_file()][:1]
        removed = _uncharacterized(lists[0]) if lists else frozenset()
        rules = inspect.getsource(qm9_files) + inspect.getsource(units)
        key = content_key(rules, *map(_fingerprint, [*layout.files, *lists]))
        molecules = cached(self.cache, self.name, key, lambda: qm9_files.read_layout(layout, removed))
        if len(molecules) == MOLECULES:
            warnings.warn(
                f"there is no {UNCHARACTERIZED_FILE} in {self.root}, so {UNCHARACTERIZED:,} uncharacterised molecules "
                "stay in and the splits are not those of EDM; put the file there",
                stacklevel=2,
            )
        elif len(molecules) != _KEPT:
            rank_zero_info(f"{len(molecules):,} molecules of QM9's {_KEPT:,}: splits in the proportions of EDM's.")
        return molecules

    def split(self, count: int) -> dict[Split, Tensor]:
        """EDM's splits of ``count`` molecules in the order of their indices, each in ascending order."""
        order = torch.from_numpy(np.random.RandomState(0).permutation(count))
        train, test = count * _EDM_TRAIN // _KEPT, count // 10
        parts = order.tensor_split([train, count - test])
        return dict(zip(("train", "val", "test"), (part.sort().values for part in parts), strict=True))

    def halves(self, count: int) -> tuple[Tensor, Tensor]:
        """EDM's halves of the training molecules in ascending order."""
        first, second = torch.from_numpy(np.random.RandomState(42).permutation(count)).tensor_split([count // 2])
        return first, second


def _fingerprint(path: Path) -> str:
    # Size and time rather than content: to read 133,885 files takes longer than to notice one that was touched.
    state = path.stat()
    return f"{path.name} {state.st_size} {state.st_mtime_ns}"


def _uncharacterized(path: Path) -> frozenset[int]:
    """QM9's indices of the molecules that failed the authors' check: the numbers that lines begin with."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    indices = frozenset(int(words[0]) for line in lines if (words := line.split()) and words[0].isdigit())
    if not indices:
        raise ValueError(f"{path} lists no molecule; expected lines that begin with QM9's index. Copy it again")
    return indices


def _fetch(file: Download, root: Path) -> None:
    path = root / file.name
    if path.is_file():
        return
    temporary = path.with_name(f".{file.name}.{os.getpid()}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        md5 = _stream(file, temporary)
        if md5 != file.md5:
            raise ValueError(
                f"{file.name} from {file.url} has MD5 {md5}, expected {file.md5}; it was cut short or changed on the "
                f"way: try again, or bring the file to {root} by other means"
            )
        os.replace(temporary, path)
    except (OSError, HTTPException) as error:
        raise OSError(
            f"cannot fetch {file.name} from {file.url} to {root} ({error}); try again, or bring the file there by "
            "other means"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _stream(file: Download, target: Path) -> str:
    """Write what is at the file's address; its MD5 is returned."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(file.url, timeout=_TIMEOUT_SECONDS) as source, target.open("wb") as written:
        size = int(source.headers.get("Content-Length") or 0)
        with Progress() as progress:
            task = progress.add_task(f"Fetching {file.name}", total=size or None)
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                written.write(chunk)
                progress.advance(task, len(chunk))
    return digest.hexdigest()
