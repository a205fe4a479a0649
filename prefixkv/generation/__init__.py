"""From inputs to new tokens: one prefill, then one step a token, plain or captured."""
