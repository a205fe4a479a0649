"""What stays: budgets, methods, and score -> allocate -> select as pure functions. Knows nothing of transformers."""
