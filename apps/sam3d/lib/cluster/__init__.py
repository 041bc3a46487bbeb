"""Work over several machines: orders, executors, and the engine's processes. Nothing of it runs unless asked for."""
