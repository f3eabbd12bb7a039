"""rnncore and its peers: a module each, with functions that return what is to be timed.

``training(work)`` returns a callable that makes one update and returns the loss before it.
``inference(work)`` returns one that returns the output at every step, (N, T, O).
``stream(work)`` returns one that takes the next step of N sequences and returns its output, (N, O).

All start from the same weights, so all must come to the same results. A module has `installed`, and those
functions that apply.
"""
