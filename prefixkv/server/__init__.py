"""A server that answers by OpenAI's chat completions: one resident model, its engine, and the shapes of the API."""
