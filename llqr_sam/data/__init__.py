"""The data sets of the paper, and real digits that need no download. Independent of methods and networks."""
