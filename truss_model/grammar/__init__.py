"""JSON schemas and tool calls as token masks."""
