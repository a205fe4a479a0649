"""How the bundled demo model was trained and is measured.

`train.py` writes a folder. Its `weights` are copied to `prefixkv/demo/weights`; the dense heads, the recipe and the log
of the bundled weights are kept beside this file, as is their accuracy, which `evaluate.py --metrics` measures.
"""
