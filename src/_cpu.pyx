"""Which of the compiled instruction-set levels this CPU and its operating system can run."""

cdef extern from *:
    """
    #ifdef X86_64_LEVELS
    #define RUNS_BASE __builtin_cpu_supports("x86-64-v2")
    #define RUNS_V3 __builtin_cpu_supports("x86-64-v3")
    #define RUNS_V4 __builtin_cpu_supports("x86-64-v4")
    #else
    #define RUNS_BASE 1
    #define RUNS_V3 0
    #define RUNS_V4 0
    #endif
    """
    bint RUNS_BASE, RUNS_V3, RUNS_V4


def levels():
    """Names of the levels this machine can run, lowest first."""
    runs = {"base": RUNS_BASE, "v3": RUNS_V3, "v4": RUNS_V4}
    return tuple(level for level in runs if runs[level])
