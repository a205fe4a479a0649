"""What `--json` of each command prints, as classes from which docs/schemas is made. Commands do not load them."""
