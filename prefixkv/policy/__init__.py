"""What stays: budgets, methods, and score -> allocate -> select as pure functions on tensors.

Two modules are not: `text_marks` and `rotary` watch a model of transformers by hooks. None imports transformers.
"""
