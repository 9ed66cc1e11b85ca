"""Mistral-7B as a Truss model: continuous batching over the transformers model, streamed to many callers at once."""
