"""How data sets are fetched and brought into the form that ``llqr_sam.data`` reads; nothing that trains imports it."""
