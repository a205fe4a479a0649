"""Other people's harnesses on compressed caches: a prompt is read, compressed, and only then answered or scored."""
