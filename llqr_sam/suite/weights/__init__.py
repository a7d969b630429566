"""Kept weights of runs that have ended: as a plain PyTorch module, and scored again."""
