"""papermill for the grid's jobs: `python -m foalkit.job` with its own arguments, 2.4 s of CPU time less a notebook."""

import sys

# Importing it builds a grammar of web addresses (1 s), which jsonschema does without where the package is missing.
sys.modules["rfc3987_syntax"] = None

from nbclient import NotebookClient  # noqa: E402
from papermill.__main__ import papermill  # noqa: E402

# All is written when the last cell is done: taking PyTorch apart, object by object (1.5 s), serves nobody.
NotebookClient.shutdown_kernel.default_value = "immediate"

if __name__ == "__main__":
    try:
        papermill()
    except SystemExit as end:
        if end.code == 138:  # papermill's word for a dead kernel
            print("error: the notebook's kernel was killed, as happens where memory is full", file=sys.stderr)
        raise
