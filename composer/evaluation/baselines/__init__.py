"""Further baselines for a mix, in addition to its seed, its experts and dense merging."""
