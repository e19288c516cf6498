"""Guards against fooling oneself: what a run's figures are worth, and whether they could have been known in time."""
