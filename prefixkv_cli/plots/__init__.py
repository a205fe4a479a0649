"""Pictures of what was measured or is kept."""
