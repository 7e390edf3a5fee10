"""Conversations with a server that speaks the OpenAI API: client, session, rendering, storage."""
