"""Run records as data: tables of runs, evaluations and refreshes, and two runs side by side."""
