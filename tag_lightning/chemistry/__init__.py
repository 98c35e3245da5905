"""Chemistry of molecules: bonds, validity, labels, quantum chemistry and files."""

from tag_lightning.chemistry.bonds import bond_orders, stable_atoms
from tag_lightning.chemistry.encoding import MoleculeEncoding
from tag_lightning.chemistry.labels import rdkit_label, rdkit_labels
from tag_lightning.chemistry.perception import canonical_smiles, is_connected, molecule, perceived
from tag_lightning.chemistry.sdf import read_sdf, write_sdf
from tag_lightning.chemistry.units import PROPERTIES, Property, property_of
from tag_lightning.chemistry.xtb import XTB_PROPERTIES, XTBError, is_available, relaxation_energy, xtb_properties
from tag_lightning.chemistry.xtb_pool import xtb_many

__all__ = [
    "PROPERTIES",
    "XTB_PROPERTIES",
    "MoleculeEncoding",
    "Property",
    "XTBError",
    "bond_orders",
    "canonical_smiles",
    "is_available",
    "is_connected",
    "molecule",
    "perceived",
    "property_of",
    "rdkit_label",
    "rdkit_labels",
    "read_sdf",
    "relaxation_energy",
    "stable_atoms",
    "write_sdf",
    "xtb_many",
    "xtb_properties",
]
