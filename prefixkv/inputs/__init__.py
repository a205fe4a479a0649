"""From a conversation with pictures to a model's inputs."""
