"""SD files: written completely or not at all, read record by record with a reason for each failure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rdkit import Chem, rdBase

from tag_lightning.files import replacing

_END = "$$$$"


def write_sdf(
    path: str | Path, mols: Sequence[Chem.Mol], fields: Sequence[Mapping[str, float | str]] | None = None
) -> None:
    """Write molecules with their data fields, so that ``path`` is complete or as it was before.

    Args:
        path: Path of the file, created with its folders or replaced.
        mols: Molecules, sanitised or not. The format keeps four decimals of positions.
        fields: One mapping of data fields per molecule; numbers are written with all digits.

    Raises:
        ValueError: If there is not one mapping per molecule, or a field's name or text would break the format.
        OSError: If the file cannot be written.
    """
    fields = [{} for _ in mols] if fields is None else fields
    if len(fields) != len(mols):
        raise ValueError(f"{len(mols)} molecules came with {len(fields)} mappings of fields; expected one each.")
    text = io.StringIO()
    with rdBase.BlockLogs(), Chem.SDWriter(text) as writer:
        for index, (mol, own) in enumerate(zip(mols, fields, strict=True)):
            # An unsanitised molecule has no aromatic bonds to kekulise.
            writer.SetKekulize(not mol.NeedsUpdatePropertyCache())
            writer.write(_with_fields(index, mol, own))
    # Not by SDWriter itself, which ignores a full disk.
    with replacing(Path(path), "check this folder or choose another path") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="\n")


def read_sdf(path: str | Path, sanitize: bool = True) -> Iterator[tuple[int, Chem.Mol | None, str]]:
    """Read every record of an SD file, with hydrogens and data fields (as properties).

    Args:
        path: Path of the file.
        sanitize: Check valencies and find aromatic rings by RDKit; False keeps the molecules as written.

    Yields:
        Index of the record, counted from 0; the molecule, or None if unreadable; the reason, or ``""``. An incomplete
        last record counts as unreadable.

    Raises:
        FileNotFoundError: If the file does not exist; raised at the call, not with the first record.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"SD file {path} does not exist; check the path, or unpack the archive of the file.")
    return _records(path, sanitize)


def _records(path: Path, sanitize: bool) -> Iterator[tuple[int, Chem.Mol | None, str]]:
    index, lines = 0, []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            lines.append(line)
            if line.rstrip() == _END:
                yield index, *_parse("".join(lines), sanitize)
                index, lines = index + 1, []
    if any(line.strip() for line in lines):
        yield index, None, f"The file ends within this record, without {_END}: write or copy '{path}' again."


def _parse(record: str, sanitize: bool) -> tuple[Chem.Mol | None, str]:
    title = record.split("\n", 1)[0].strip()
    if not any(line.startswith("M  END") for line in record.splitlines()):
        return None, f"Record '{title}' has no line 'M  END': it is truncated."
    with rdBase.BlockLogs():
        supplier = Chem.SDMolSupplier()
        supplier.SetData(record, sanitize=False, removeHs=False)
        mol = supplier[0]
        if mol is None:
            return None, f"RDKit cannot read record '{title}': its counts line, atoms or bonds are malformed."
        if sanitize:
            try:
                Chem.SanitizeMol(mol)
            except (ValueError, RuntimeError) as error:
                return None, f"RDKit refuses record '{title}': {error}"
    return mol, ""


def _with_fields(index: int, mol: Chem.Mol, fields: Mapping[str, float | str]) -> Chem.Mol:
    """A copy whose only public properties are ``fields``."""
    copy = Chem.Mol(mol)
    for name in copy.GetPropNames():
        copy.ClearProp(name)
    for name, value in fields.items():
        text = value if isinstance(value, str) else repr(float(value))
        if not name.strip() or set(name) & set("<>\r\n") or not text.strip() or set(text) & set("\r\n"):
            raise ValueError(
                f"Molecule {index} has the field '{name}' with {value!r}; expected a name without < and > and a "
                "non-empty text on one line. Rename the field or leave it out."
            )
        copy.SetProp(name, text)
    return copy
