"""The kernels in NumPy: the equations as they are read, and the measure of the compiled ones."""

__all__: list[str] = []
