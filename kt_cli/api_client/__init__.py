"""A client of OpenAI-compatible servers: which one, with which key, and one answer at a time."""
