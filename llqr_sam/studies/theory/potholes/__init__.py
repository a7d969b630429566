"""The paper's section 4 and appendix B: the two-scale model and potholes, under the suite's own optimizer."""
