"""Questions to a server that runs already, instead of to a model that is loaded for them."""
