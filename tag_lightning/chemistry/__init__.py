"""Molecules as chemists judge them: bonds, validity, labels, quantum chemistry and files."""

from tag_lightning.chemistry.bonds import bond_orders, stable_atoms
from tag_lightning.chemistry.perception import canonical_smiles, molecule, perceived
from tag_lightning.chemistry.units import PROPERTIES, Property, property_of

__all__ = [
    "PROPERTIES",
    "Property",
    "bond_orders",
    "canonical_smiles",
    "molecule",
    "perceived",
    "property_of",
    "stable_atoms",
]
