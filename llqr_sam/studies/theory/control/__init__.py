"""The exact side of LLQR: the layerwise problem written out, for small networks in float64 (docs/lqr_identity.md)."""
