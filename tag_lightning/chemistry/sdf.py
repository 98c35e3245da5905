"""SD files: written whole or not at all, read record by record with a reason for each that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rdkit import Chem, rdBase

_END = "$$$$"


def write_sdf(
    path: str | Path, mols: Sequence[Chem.Mol], fields: Sequence[Mapping[str, float | str]] | None = None
) -> None:
    """Write molecules with their data fields, so that ``path`` is complete or as it was before.

    Args:
        path: The file; folders are made and a former file is replaced.
        mols: Molecules, sanitised or not. Positions keep four decimals, as the format has them.
        fields: One mapping of data fields a molecule; numbers are written with all their digits.

    Raises:
        ValueError: Not one mapping a molecule, or a field whose name or text would break the format.
        OSError: The file cannot be written.
    """
    fields = [{} for _ in mols] if fields is None else fields
    if len(fields) != len(mols):
        raise ValueError(f"{len(mols)} molecules came with {len(fields)} mappings of fields; expected one each.")
    text = "".join(_record(index, mol, own) for index, (mol, own) in enumerate(zip(mols, fields, strict=True)))
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            if temporary.exists():
                temporary.unlink()
    except OSError as error:
        raise type(error)(
            error.errno,
            f"Cannot write {len(mols)} molecules to '{target}' ({error.strerror}); expected a folder that can be "
            f"written and has space left. Check '{target.parent}' or choose another path",
        ) from error


def read_sdf(path: str | Path, sanitize: bool = True) -> Iterator[tuple[int, Chem.Mol | None, str]]:
    """Every record of an SD file, hydrogens and data fields (as properties) kept.

    Args:
        path: The file.
        sanitize: Whether RDKit checks valencies and finds aromatic rings; False takes the molecules as written.

    Yields:
        Index of the record, counted from 0; the molecule, or None where it cannot be read; the reason, or ``""``.
        A file that ends within a record yields that record as one that failed.

    Raises:
        FileNotFoundError: There is no such file; raised at once, not with the first record.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no SD file '{path}'; expected a file as write_sdf or a data set brings it. Check the path, "
            "unpack the archive it comes in, or write it first."
        )
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
        return None, f"Record '{title}' has no line 'M  END': its atoms or bonds are cut off."
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


def _record(index: int, mol: Chem.Mol, fields: Mapping[str, float | str]) -> str:
    with rdBase.BlockLogs():
        # Bonds that distances gave are no aromatic ones, and without sanitising there is nothing to kekulise.
        block = Chem.MolToMolBlock(mol, kekulize=not mol.NeedsUpdatePropertyCache())
    parts = [block]
    for name, value in fields.items():
        text = value if isinstance(value, str) else repr(float(value))
        if not name.strip() or set(name) & set("<>\r\n") or not text.strip() or set(text) & set("\r\n"):
            raise ValueError(
                f"Molecule {index} has the field '{name}' with {value!r}; expected a name without < and > and a text "
                "on one line that is not empty. Rename the field or leave it out."
            )
        parts.append(f">  <{name}>\n{text}\n\n")
    return "".join([*parts, f"{_END}\n"])
