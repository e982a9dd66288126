"""Run the control service: `python -m weft._control SESSION_DIR`."""

from weft._control.main import main

main()
