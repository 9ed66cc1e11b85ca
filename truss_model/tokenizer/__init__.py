"""Messages and tools to token ids; token ids to bytes."""
