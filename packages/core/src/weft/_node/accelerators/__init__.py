"""The devices of a node beside its CPUs: which there are, and who may see which."""
