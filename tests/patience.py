"""How long a test waits for what must come. It fails when that never comes, not when the machine is busy."""

PATIENCE_S = 600.0
