"""A stage of a network, bound to its arrays once and run without arguments."""

from cpython.pycapsule cimport PyCapsule_GetPointer

from _plan cimport Stage as CStage


cdef class Stage:
    """Runs the C functions that a kernel module has put into a capsule.

    Parameters
    ----------
    capsule : PyCapsule
        Points at the functions and the plan that they work on.
    keep : list
        Arrays that the plan points into.
    """

    cdef CStage* stage
    cdef readonly object capsule
    cdef object keep

    def __init__(self, capsule, keep):
        self.stage = <CStage*>PyCapsule_GetPointer(capsule, "rnncore.Stage")
        self.capsule = capsule
        self.keep = keep

    def pack(self):
        """Read the weights."""
        with nogil:
            self.stage.pack(self.stage.plan, self.stage.numbers, 0, 1)

    def forward(self):
        """Compute the outputs from the inputs."""
        with nogil:
            self.stage.forward(self.stage.plan, self.stage.numbers, 0, self.stage.N)

    def backward(self):
        """Add the gradients of the inputs; once for each forward."""
        with nogil:
            self.stage.backward(self.stage.plan, self.stage.numbers, 0, self.stage.N)

    def accumulate(self):
        """Add the gradients of the weights; after backward."""
        with nogil:
            self.stage.accumulate(self.stage.plan, self.stage.numbers, 0, 1)
