"""What prefill and decoding cost, measured beside stock transformers in the same run."""
