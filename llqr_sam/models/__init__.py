"""The networks of the paper, and a small one for digits. Independent of methods and data."""
