"""Other projects' layouts -> our models: one module per project."""

from singleshot.weights.importers import amdegroot

IMPORTERS = (*amdegroot.IMPORTERS,)
