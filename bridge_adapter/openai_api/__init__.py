"""OpenAI's requests, answers and streams, translated to and from the predict contract. Pure."""
