"""What a run depends on, checked.

In: a params file and overrides. Out: one frozen `Params`. Never: recordings, results, tensors.
"""

from foalkit.params.load import load
from foalkit.params.schema import Params

__all__ = ["Params", "load"]
