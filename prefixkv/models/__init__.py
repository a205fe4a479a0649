"""Models: what they are called, what is known of them without their weights, and how they are loaded."""
