"""A process of a node: `python -S -P <this file> MODULE SESSION_DIR ...`, as _launch.py starts it.

It finds modules where the session's driver did. The package's own `__init__` brings what users
call: the daemon needs none of that, so it does without (50 ms and 5 MB less), and the template,
whose workers need it, runs it when the two have parted.
"""

import importlib
import sys
from pathlib import Path

_, module, session_dir, *arguments = sys.argv
with open(f"{session_dir}/sys.path", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
    sys.path[:] = file.read().split("\0")

package = type(sys)("weft")
package.__path__ = [str(Path(__file__).parent.parent)]
sys.modules["weft"] = package

if __name__ == "__main__":
    importlib.import_module(f"weft.{module}").run(session_dir, *arguments)
