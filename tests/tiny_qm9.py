"""A few small molecules in QM9's own layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

PROPERTIES = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv")
SMILES = ("C", "N", "O", "C#C", "CO", "CC", "CF", "C#N", "CN", "C=O")


def write_qm9(root: Path, count: int) -> Path:
    """Write ``count`` molecules, ten different ones in turn, with geometries of their own and made-up labels."""
    rng = np.random.default_rng(0)
    rows = ["mol_id," + ",".join(PROPERTIES)]
    with (root / "gdb9.sdf").open("w") as file:
        for index in range(count):
            mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[index % len(SMILES)]))
            rdDistGeom.EmbedMolecule(mol, randomSeed=index)
            mol.SetProp("_Name", f"gdb_{index + 1}")
            file.write(Chem.MolToMolBlock(mol) + "$$$$\n")
            rows.append(f"gdb_{index + 1}," + ",".join(f"{value:.4f}" for value in rng.normal(1, 0.2, len(PROPERTIES))))
    (root / "gdb9.sdf.csv").write_text("\n".join(rows) + "\n")
    return root
