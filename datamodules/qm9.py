"""QM9 in its authors' files, or in files of the same layout."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchvision.datasets.utils import download_url

from tag_lightning.chemistry import units
from tag_lightning.content_digest import content_key
from tag_lightning.datamodules import qm9_files
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.molecule_store import Molecules, cached
from tag_lightning.datamodules.molecules import MoleculeDataModule
from tag_lightning.datamodules.qm9_files import ARCHIVE, MOLECULES, UNCHARACTERIZED, UNCHARACTERIZED_FILE
from tag_lightning.files import remove_leftovers, replacing


class Download(NamedTuple):
    """A file of the authors' collection.

    Attributes:
        name: File name on disk.
        url: Address of the file.
        md5: Checksum that the collection publishes.
    """

    name: str
    url: str
    md5: str


# Collection 978904 of figshare, cited by doi 10.1038/sdata.2014.22. The list comes first: molecules without it
# would count as a complete download.
OFFICIAL = (
    Download(
        UNCHARACTERIZED_FILE, "https://ndownloader.figshare.com/files/3195404", "a361887bacb427b8a0ce7903d92a53b4"
    ),
    Download(ARCHIVE, "https://ndownloader.figshare.com/files/3195389", "ad1ebd51ee7f5b3a6e32e974e5d54012"),
)
_KEPT = MOLECULES - UNCHARACTERIZED
_EDM_TRAIN, _EDM_VAL = 100_000, 17_748


class QM9DataModule(MoleculeDataModule):
    """QM9 (Ramakrishnan et al. 2014): molecules of up to nine atoms of C, N, O and F, 29 with hydrogen.

    Reads ``gdb9.sdf`` with ``gdb9.sdf.csv``, ``dsgdb9nsd_NNNNNN.xyz`` files, or the authors' archive of those, in
    ``root`` or a subfolder; molecules listed in ``uncharacterized.txt`` are left out. The splits are those of EDM
    (Hoogeboom et al. 2022): 100,000 / 17,748 / 13,083 by a permutation of the molecules in the order of their
    indices, in the same proportions for fewer molecules. EDM's judge uses the first half, its generator the
    second. The split and half of a molecule do not depend on the layout.

    Args:
        root: Folder of the files.
        download: Download the authors' archive and list if ``root`` has no molecules.
        properties: ``mu``, ``alpha``, ``homo``, ``lumo``, ``gap``, ``r2``, ``zpve``, ``u0``, ``u298``, ``h298``,
            ``g298``, ``cv``, ``A``, ``B`` or ``C``, in the units of ``tag_lightning.chemistry.units``; atomic
            references are not subtracted, neither from energies nor from ``cv``.
        test_molecules: An ``.npz`` file whose array ``index`` lists QM9's own numbers of the test molecules; those of
            them that ``root`` has are the test split, and the others are split into training and validation in EDM's
            proportions. For an incomplete QM9, whose permutation is not EDM's. Null takes EDM's permutation.
        **kwargs: Arguments of ``MoleculeDataModule``.

    Raises:
        ValueError: If QM9 does not have one of the properties.
        FileNotFoundError: If the file ``test_molecules`` does not exist.
    """

    name = "qm9"
    default_feature_scale = 8.0  # as in EDM's generator without atomic numbers

    def __init__(
        self,
        root: str = "data/qm9",
        download: bool = False,
        properties: Sequence[str] = ("alpha", "mu", "cv", "homo", "lumo", "gap"),
        test_molecules: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(properties, **kwargs)
        for name in self.properties:
            units.property_of(name)
        self.test_molecules = None if test_molecules is None else Path(test_molecules)
        if self.test_molecules is not None and not self.test_molecules.is_file():
            raise FileNotFoundError(
                f"{self.test_molecules} does not exist; set data.init_args.test_molecules to an .npz file with the "
                "array index, or to null"
            )
        self._test_rows: Tensor | None = None
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
                "or in a subfolder. Set data.init_args.root, or data.init_args.download=true"
            )
        folders = (layout.files[0].parent, self.root)
        lists = [path for folder in folders if (path := folder / UNCHARACTERIZED_FILE).is_file()][:1]
        removed = _uncharacterized(lists[0]) if lists else frozenset()
        rules = inspect.getsource(qm9_files) + inspect.getsource(units)
        key = content_key(rules, *map(_fingerprint, [*layout.files, *lists]))
        molecules = cached(self.cache, self.name, key, lambda: qm9_files.read_layout(layout, removed))
        if len(molecules) == MOLECULES:
            warnings.warn(
                f"{self.root} has no {UNCHARACTERIZED_FILE}, so {UNCHARACTERIZED:,} uncharacterised molecules are kept "
                "and the splits are not those of EDM; put the file there",
                stacklevel=2,
            )
        elif len(molecules) != _KEPT:
            rank_zero_info(f"{len(molecules):,} molecules of QM9's {_KEPT:,}: splits in the proportions of EDM's.")
        if self.test_molecules is not None:
            assert molecules.identities is not None
            self._test_rows = torch.isin(molecules.identities, _listed(self.test_molecules))
        return molecules

    def source_splits(self, count: int) -> dict[Split, Tensor]:
        if self._test_rows is None:
            return self.split(count)
        others = (~self._test_rows).nonzero()[:, 0]
        order = torch.from_numpy(np.random.RandomState(0).permutation(len(others)))
        train, val = order.tensor_split([len(others) * _EDM_TRAIN // (_EDM_TRAIN + _EDM_VAL)])
        splits = {"train": others[train.sort().values], "val": others[val.sort().values]}
        return splits | {"test": self._test_rows.nonzero()[:, 0]}  # type: ignore[return-value]

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
    # Size and time rather than content: reading 133,885 files takes too long.
    state = path.stat()
    return f"{path.name} {state.st_size} {state.st_mtime_ns}"


def _listed(path: Path) -> Tensor:
    """The array ``index`` of an ``.npz`` file: QM9's own numbers, ``[n]``."""
    try:
        with np.load(path) as arrays:
            return torch.from_numpy(arrays["index"].astype(np.int64))
    except (KeyError, ValueError, OSError, BadZipFile) as error:
        raise ValueError(
            f"cannot read the array 'index' of {path} ({error}); expected an .npz file that lists QM9's numbers of "
            "the test molecules there"
        ) from error


def _uncharacterized(path: Path) -> frozenset[int]:
    """QM9's indices of the molecules that failed the authors' check, the first words of the lines."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    indices = frozenset(int(words[0]) for line in lines if (words := line.split()) and words[0].isdigit())
    if not indices:
        raise ValueError(f"{path} does not list any molecule; expected lines that begin with an index. Copy it again")
    return indices


def _fetch(file: Download, root: Path) -> None:
    path = root / file.name
    if path.is_file():
        return
    remove_leftovers(root)
    try:
        with replacing(path) as temporary:
            download_url(file.url, str(root), temporary.name, file.md5)
    except (OSError, HTTPException, RuntimeError) as error:
        raise OSError(
            f"cannot download {file.name} with MD5 {file.md5} from {file.url} to {root} ({error}); try again, or copy "
            "the file there by other means"
        ) from error
