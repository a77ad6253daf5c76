"""The models that a CPU worker starts with, by SGLang's `SGLANG_EXTERNAL_MODEL_PACKAGE`.

SGLang 0.5.23 (models/registry.py) imports the code of all its 250 models for the one it serves.
With such a package it does so only for a model that the package does not have.
"""
