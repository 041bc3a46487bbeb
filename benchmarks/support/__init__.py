"""What benchmarks share: a server to talk to, cases to annotate, and one line of JSON at the end.

Importing it puts the app on the path, as the server does when it loads the app.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "apps" / "sam3d"))
