"""Token ids to text, tool calls, events and answers."""
