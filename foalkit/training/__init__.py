"""Features to runs.

In: stores, a split, a variant. Out: logits of every epoch, weights, a record. Never: a choice by the test side.
"""
