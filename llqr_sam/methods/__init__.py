"""What the paper is about: directions, metrics, LLQR and the sharpness-aware step. Imports torch alone."""
