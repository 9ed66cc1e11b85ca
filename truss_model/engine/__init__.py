"""The engine: token ids in, token ids out, many rows at once. Knows nothing of text, HTTP or Truss."""
