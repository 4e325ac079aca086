"""OpenAI's dialect: from request bytes to a prepared request, and from tokens to answers and chunks.

Belongs here: everything that knows the shapes of OpenAI's API. No sockets, no engine process.
"""
