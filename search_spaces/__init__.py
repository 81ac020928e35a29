"""What can be searched: genes, spaces, recipes and presets. Pure Python, no torch, no optimizer."""
