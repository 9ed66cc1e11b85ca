"""Which rows run in a step and which pages they hold. Knows no tensors."""
