"""Pictures of molecules and of their properties."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D
from torch import Tensor

from tag_lightning.chemistry import molecule, perceived
from tag_lightning.evaluation.figures import COLOURS

_CELL = (220, 200)
_COLUMNS = 4


def molecule_grid(numbers: Tensor, positions: Tensor, legends: Sequence[str]) -> Tensor:
    """Structural formulas side by side, with a text under each.

    Bonds are those that RDKit perceives; where it cannot, those from distances, and "unreadable" is written first.

    Args:
        numbers: Atomic numbers ``[B, N]``, 0 is padding.
        positions: Angstrom, ``[B, N, 3]``.
        legends: B texts.

    Returns:
        Bytes ``[3, H, W]``.
    """
    mols, texts = [], []
    for z, x, legend in zip(numbers, positions, legends, strict=True):
        mol = perceived(z, x)
        texts.append(legend if mol is not None else f"unreadable\n{legend}".strip())
        mols.append(_drawable(mol if mol is not None else _from_distances(z, x)))
    rows = -(-len(mols) // _COLUMNS)
    canvas = rdMolDraw2D.MolDraw2DCairo(_CELL[0] * _COLUMNS, _CELL[1] * rows, *_CELL)
    options: Any = canvas.drawOptions()
    options.legendFontSize, options.legendFraction, options.prepareMolsBeforeDrawing = 14, 0.25, False
    with rdBase.BlockLogs():
        canvas.DrawMolecules(mols, legends=texts)
    canvas.FinishDrawing()
    picture = Image.open(io.BytesIO(canvas.GetDrawingText())).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def property_histograms(judged: Mapping[str, Tensor], targets: Tensor, units: Mapping[str, str]) -> Figure:
    """Histograms of the judged properties per arm, over the targets in grey.

    Args:
        judged: ``[N, K]`` by arm; values that are not finite are left out.
        targets: ``[N, K]``.
        units: Unit of each property by name, K of them.
    """
    figure = Figure(figsize=(4.6 * len(units), 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(units), squeeze=False)[0]
    for k, (axes, (name, unit)) in enumerate(zip(panels, units.items(), strict=True)):
        wanted = targets[:, k].double().numpy()
        margin = max(0.5 * np.ptp(wanted), 0.05 * np.abs(wanted).max(), 1e-3)
        # Samples that broke can be anywhere; the outermost bins take them in.
        edges = np.linspace(wanted.min() - margin, wanted.max() + margin, 40)
        axes.hist(wanted, edges, color="#B0B0B0", label="target", weights=np.full(len(wanted), 1 / len(wanted)))
        for (arm, values), colour in zip(judged.items(), cycle(COLOURS), strict=False):
            column = values[:, k].numpy()
            column = np.clip(column[np.isfinite(column)], edges[0], edges[-1])
            # Shares, since the density of no finite values is undefined.
            weights = np.full(len(column), 1 / len(values))
            axes.hist(column, edges, histtype="step", linewidth=1.6, color=colour, label=arm, weights=weights)
        axes.set_xlabel(f"{name} [{unit}]" if unit else name)
        axes.set_ylabel("share of molecules")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def _from_distances(numbers: Tensor, positions: Tensor) -> Chem.Mol:
    return molecule(numbers, torch.where(positions.isfinite(), positions, 0))


def _drawable(mol: Chem.Mol) -> Chem.Mol:
    flat = Chem.RWMol(mol)
    flat.UpdatePropertyCache(strict=False)
    bonded = [atom.GetIdx() for atom in flat.GetAtoms() if atom.GetAtomicNum() == 1 and atom.GetDegree() == 1]
    # Hydrogens of heavy atoms go without saying; RDKit's own removal refuses impossible valences.
    hidden = [i for i in bonded if flat.GetAtomWithIdx(i).GetNeighbors()[0].GetAtomicNum() > 1]
    if len(hidden) < flat.GetNumAtoms():
        for i in sorted(hidden, reverse=True):
            flat.RemoveAtom(i)
    Chem.FastFindRings(flat)  # which drawing needs, and sanitising would have found
    with rdBase.BlockLogs():
        rdDepictor.Compute2DCoords(flat)
    return flat.GetMol()
