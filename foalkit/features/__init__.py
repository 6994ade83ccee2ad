"""Utterances to packed arrays.

In: the manifest and the recordings. Out: stores of features, on disk once. Never: scores, networks in training.
"""
