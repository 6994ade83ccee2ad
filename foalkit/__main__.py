import sys

from foalkit.cli import main

sys.exit(main())
