"""How stages are run: one after another, or a whole training step in one call; by one thread or several.

In the forward and the backward pass, each thread has some shares of the batch's rows. For packing and for the weights'
gradients, each has some output tiles. Where few rows need many weights, one thread runs the passes, and a team of
threads splits each large product by columns. A weight gradient is summed in one piece or in the same two halves,
whatever the number of threads, so the bits do not depend on it.
"""

import os

from libc.math cimport INFINITY, isfinite, sqrt
from libc.string cimport memcpy, memset

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.pycapsule cimport PyCapsule_GetPointer

from rnncore import machine

from _plan cimport (
    MOST, Band, Job, OverRows, Portion, Rows, Rule as CRule, Stage as CStage, address, buffer, offsets_of,
    row_count,
)

cdef extern from "_threads.h" nogil:
    void rnn_parallel(Job job, void* argument, Py_ssize_t parts) noexcept

cdef enum:
    # How a parameter's update is split.
    BLOCK = 4096                 # Numbers of a parameter; threads update whole blocks of them.

    # How many threads split the rows.
    FEW = 4                      # Rows per thread; halving a batch of fewer saves hardly any time.
    MANY = 16                    # Rows per thread; halving a batch of fewer saves less than half of the time.

    # When a team splits the products instead. Weights here are those that every step reads.
    LEAST = 3 << 18              # Bytes of weights; with fewer, a team loses more by waiting than it gains.
    PART = 1 << 18               # Bytes of weights per thread of a team; with fewer, the team has fewer threads.
    TEAM = 8                     # Rows; a batch of fewer is run by a team.
    HEAVY = 3 << 19              # Bytes of weights; one core's second cache holds too little of more than these.
    HEAVY_TEAM = 32              # Rows; with heavy weights, a batch of fewer is run by a team.
    HUGE = 8 << 20               # Bytes of weights; loading more than these takes longer than multiplying by them.
    HUGE_TEAM = 16               # Rows per thread; with huge weights, a batch of fewer is run by a team.

    # When each half of a batch has gradient sums of its own.
    HALF = 8                     # Rows; a batch must have at least twice these.
    SUMS = 1 << 20               # Bytes of a half's sums; it may have at most these, which a core's cache holds.

# Multiply-adds of a forward pass. A shorter one keeps the GIL: it ends before another Python thread could begin.
cdef double MOMENT = 1e5
# Multiply-adds of a forward pass per thread. For fewer, another thread costs more than it gains.
cdef double SHARE = 1e6

cdef Py_ssize_t limit = 1        # The largest number of threads that may run.
cdef Py_ssize_t usual = 1        # The limit that the process began with.


def set_num_threads(count):
    """Set the largest number of threads for all computations; results do not depend on it.

    Parameters
    ----------
    count : int
        1 ... 64. The default is the environment variable ``RNNCORE_NUM_THREADS`` or the number of cores that
        this process may use.

    Raises
    ------
    ValueError, TypeError
    """
    global limit
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"count must be an integer, got {count!r}")
    if not 1 <= count <= MOST:
        raise ValueError(f"count must be 1 ... {MOST}, got {count}")
    limit = count


def get_num_threads():
    """Return the largest number of threads that computations use."""
    return limit


def halves_pay(N, T, work, size):
    """Return whether each half of a batch has sums of its own for a weight gradient of `size` bytes.

    Each of two threads then reads what it has computed itself. The answer must not depend on the number of threads,
    because it decides the order of sums, and so the bits.
    """
    return N >= 2 * HALF and size <= SUMS and 2 * N * T * work >= SHARE


def num_threads_to_come():
    """Return the number of threads to allocate buffers for: the present limit, or a larger one that may return."""
    return max(limit, usual)


cdef Py_ssize_t threads_for(double work, Py_ssize_t rows) noexcept nogil:
    """The largest number of threads with at least SHARE multiply-adds and one row each."""
    return max(<Py_ssize_t>1, min(min(limit, rows), <Py_ssize_t>(work / SHARE)))


cdef Py_ssize_t threads_of_rows(double work, const Rows* rows) noexcept nogil:
    """The number of threads that split the rows; few rows count less work, as halving them saves little time."""
    cdef Py_ssize_t threads = threads_for(work, rows.most)
    cdef Py_ssize_t each = rows.N // threads
    return threads_for(work if each >= MANY else (work / 2 if each >= FEW else work / 4), threads)


cdef struct Buffer:              # An array of N rows.
    char* rows
    Py_ssize_t row_bytes         # From one row to the next.


cdef struct Copied:              # A state, which a refused step restores.
    void* place                  # The state.
    void* copy                   # What it was before the latest run of the step.
    size_t size                  # Bytes of each.


cdef struct Run:                 # What the threads of a pass or of a training step share.
    CStage** stages              # (count,) In the order of the forward pass.
    Py_ssize_t count
    CRule** rules                # (rule_count,) One for each parameter that is updated.
    Py_ssize_t rule_count
    bint fresh                   # Whether the parameters' gradients are zeroed first.
    Buffer* buffers              # (buffer_count,) Gradients of the states.
    Py_ssize_t buffer_count
    bint teams                   # Whether threads split each product, rather than the rows.
    Py_ssize_t parts             # The number of threads that split the output tiles of a training step.
    double clip_norm, clip_value
    double factor                # What clipping their norm multiplies all gradients by, if less than 1.


cdef bint in_teams(const Run* run, double work) noexcept nogil:
    """Whether a team runs the pass: for few rows with many weights, so that each thread caches its part of these."""
    cdef Py_ssize_t rows = run.stages[0].rows.N
    cdef Py_ssize_t most = 0
    cdef Py_ssize_t i
    for i in range(run.count):
        most = max(most, run.stages[i].weights)
    if threads_for(work, limit) == 1 or most < LEAST:
        return False
    if most > HUGE:
        return rows < HUGE_TEAM * limit
    return rows < (HEAVY_TEAM if most > HEAVY else TEAM)


cdef Py_ssize_t shares_for(Run* run, double work) noexcept nogil:
    """The best number of shares to lay out the batch in: one if a team splits the products. Also sizes the teams."""
    cdef Py_ssize_t i
    run.teams = in_teams(run, work)
    for i in range(run.count):
        run.stages[i].team = min(limit, run.stages[i].weights // PART) if run.teams else 1
    return 1 if run.teams else threads_of_rows(work, run.stages[0].rows)


cdef Py_ssize_t threads_for_rows(Run* run, double work) noexcept nogil:
    """The number of threads that split the rows, as they are laid out. Also sizes the teams."""
    return min(shares_for(run, work), run.stages[0].rows.sizes[1])


cdef void over_bands(const CStage* stage, OverRows run, Py_ssize_t share) noexcept nogil:
    """Run a stage over the rows of a share, band by band."""
    cdef Py_ssize_t first = stage.rows.bounds[share]
    cdef Py_ssize_t last = stage.rows.bounds[share + 1]
    cdef Py_ssize_t rows = stage.band if stage.band > 0 else max(last - first, <Py_ssize_t>1)
    cdef Band band
    band.share, band.offsets = share, offsets_of(stage.rows, share)
    band.first = band.home = first
    band.whole = first + rows >= last
    while True:
        band.last = min(band.first + rows, last)
        run(stage.plan, stage.numbers, &band)
        band.first += rows
        if band.first >= last:
            return


cdef Py_ssize_t first_share(const Run* run, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """The first share of a thread. There may be more shares than threads, if the limit has been lowered since."""
    cdef Py_ssize_t shares = run.stages[0].rows.sizes[1]
    return part if parts == shares else shares * part // parts


cdef void forward_share(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Run* run = <Run*>argument
    cdef Py_ssize_t i, share
    for share in range(first_share(run, part, parts), first_share(run, part + 1, parts)):
        for i in range(run.count):
            over_bands(run.stages[i], run.stages[i].forward, share)


cdef void backward_share(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Run* run = <Run*>argument
    cdef Py_ssize_t i, share
    for share in range(first_share(run, part, parts), first_share(run, part + 1, parts)):
        for i in range(run.count - 1, -1, -1):
            over_bands(run.stages[i], run.stages[i].backward, share)


cdef void finish(const Run* run) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(run.count):
        if run.stages[i].finish is not NULL:
            run.stages[i].finish(run.stages[i].plan)


cdef void zero_share(const Run* run, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Zero the states' gradients of this part's rows, before backward_share adds to them."""
    cdef const Py_ssize_t* bounds = run.stages[0].rows.bounds
    cdef Py_ssize_t first = bounds[first_share(run, part, parts)]
    cdef Py_ssize_t count = bounds[first_share(run, part + 1, parts)] - first
    cdef Py_ssize_t i
    for i in range(run.buffer_count):
        memset(run.buffers[i].rows + first * run.buffers[i].row_bytes, 0, count * run.buffers[i].row_bytes)


cdef void both_shares(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    forward_share(argument, part, parts)
    zero_share(<const Run*>argument, part, parts)
    backward_share(argument, part, parts)


cdef void pack_tiles(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Run* run = <Run*>argument
    cdef Py_ssize_t i
    for i in range(run.count):
        if run.stages[i].pack is not NULL:
            run.stages[i].pack(run.stages[i].plan, run.stages[i].numbers, part, parts)


cdef void zero_slice(void* start, Py_ssize_t size, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Py_ssize_t begin = size * part // parts
    memset(<char*>start + begin, 0, size * (part + 1) // parts - begin)


cdef void prepare_tiles(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Pack the weights and zero their gradients."""
    cdef Run* run = <Run*>argument
    cdef Py_ssize_t i
    pack_tiles(argument, part, parts)
    for i in range(run.rule_count if run.fresh else 0):
        zero_slice(run.rules[i].grad, run.rules[i].grad_bytes, part, parts)


cdef void accumulate_halves(const CStage* stage, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Sum up both halves of the rows. An even number of threads splits in two; an odd number does them in turn."""
    cdef Py_ssize_t N = stage.rows.N
    cdef Py_ssize_t middle = stage.rows.middle[0]
    cdef Py_ssize_t each = parts // 2 if parts % 2 == 0 else parts
    cdef Portion portion
    cdef Py_ssize_t half
    for half in range(2):
        if each == parts or part // each == half:
            portion = Portion(part % each, each, middle if half else 0, N if half else middle, half, part)
            stage.accumulate(stage.plan, stage.numbers, &portion)


cdef void accumulate_tiles(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Run* run = <Run*>argument
    cdef CStage* stage
    cdef Portion portion
    cdef Py_ssize_t i
    for i in range(run.count):
        stage = run.stages[i]
        if stage.halved:
            accumulate_halves(stage, part, parts)
        elif stage.accumulate is not NULL:
            portion = Portion(part, parts, 0, stage.rows.N, False, part)
            stage.accumulate(stage.plan, stage.numbers, &portion)
            if stage.gather is not NULL:
                stage.gather(stage.plan, stage.numbers, part, parts)


cdef void gather_tiles(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Gather the stages with halves; accumulate_tiles has gathered the others."""
    cdef Run* run = <Run*>argument
    cdef Py_ssize_t i
    for i in range(run.count):
        if run.stages[i].halved:
            run.stages[i].gather(run.stages[i].plan, run.stages[i].numbers, part, parts)


cdef void accumulate(Run* run, Py_ssize_t parts) noexcept nogil:
    cdef Py_ssize_t i
    rnn_parallel(accumulate_tiles, run, parts)
    for i in range(run.count):
        if run.stages[i].halved:
            rnn_parallel(gather_tiles, run, parts)
            return


cdef Py_ssize_t parts_for(const Run* run, double work) noexcept nogil:
    """The number of threads that split the output tiles of all stages."""
    cdef Py_ssize_t parts = threads_for(work, limit)
    cdef Py_ssize_t i
    for i in range(run.count):
        if run.stages[i].most > 0:
            parts = min(parts, run.stages[i].most)
    return parts


cdef void update_tiles(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Clip and update. Threads have whole blocks, so that the same instructions update a number in any split."""
    cdef Run* run = <Run*>argument
    cdef Py_ssize_t i, j, begin, end, blocks
    cdef CRule* rule
    for i in range(run.rule_count):
        rule = run.rules[i]
        blocks = (rule.size + BLOCK - 1) // BLOCK
        for j in range(blocks * part // parts, blocks * (part + 1) // parts):
            begin, end = j * BLOCK, min((j + 1) * BLOCK, rule.size)
            if run.factor < 1:
                rule.scale(rule.plan, run.factor, begin, end)
            if run.clip_value < INFINITY:
                rule.clip(rule.plan, run.clip_value, begin, end)
            rule.update(rule.plan, begin, end)


cdef class Stage:
    """A stage of a network, bound to its arrays once and run without arguments.

    Parameters
    ----------
    capsule : PyCapsule
        Points at the stage's C struct: its functions, and the plan that they work on.
    keep : list
        Arrays that the plan points into, and that live as long as the stage.
    """

    cdef CStage* stage
    cdef readonly object capsule
    cdef object keep
    cdef Run run_

    def __init__(self, capsule, keep):
        self.stage = <CStage*>PyCapsule_GetPointer(capsule, "rnncore.Stage")
        self.stage.parallel = rnn_parallel
        self.capsule = capsule
        self.keep = keep
        self.run_.stages = &self.stage
        self.run_.count = 1

    @property
    def nbytes(self):
        """Bytes of the buffers that belong to the stage alone."""
        return sum(len(part) for part in self.keep if isinstance(part, bytearray))

    cdef void over(self, Job job, bint rows) noexcept nogil:
        cdef Py_ssize_t R = row_count(self.stage.rows, self.stage.per_sequence)
        cdef double work = self.stage.work * <double>R
        rnn_parallel(job, &self.run_, threads_for_rows(&self.run_, work) if rows else parts_for(&self.run_, work))

    def pack(self):
        """Read the weights."""
        with nogil:
            self.over(pack_tiles, False)

    def forward(self):
        """Compute the outputs from the inputs."""
        with nogil:
            self.over(forward_share, True)
            finish(&self.run_)

    def backward(self):
        """Fill the gradient of the input, and add to those of the initial states; call it once for each forward."""
        with nogil:
            self.over(backward_share, True)

    def accumulate(self):
        """Add to the gradients of the weights; call it after backward."""
        with nogil:
            accumulate(&self.run_, parts_for(&self.run_, work_of(&self.run_)))


cdef double work_of(const Run* run) noexcept nogil:
    """Multiply-adds of a forward pass through all stages."""
    cdef double work = 0
    cdef Py_ssize_t i
    for i in range(run.count):
        work += run.stages[i].work * <double>row_count(run.stages[i].rows, run.stages[i].per_sequence)
    return work


cdef void** pointers(list keep, Py_ssize_t count) except NULL:
    """Allocate `count` pointers; `keep` holds them alive."""
    memory = bytearray((count + 1) * sizeof(void*))
    keep.append(memory)
    return <void**>PyByteArray_AS_STRING(memory)


cdef class Forward:
    """A forward pass through several stages in one call.

    Parameters
    ----------
    stages : list of Stage

    Attributes
    ----------
    shares : int
        The number of shares to lay out a batch of these lengths in: see `rnncore.rows.Rows.share`.
    """

    cdef Run run_
    cdef list keep

    def __init__(self, stages):
        self.keep = [stages]
        self.run_.count = len(stages)
        self.run_.stages = <CStage**>pointers(self.keep, len(stages))
        for i, stage in enumerate(stages):
            self.run_.stages[i] = (<Stage>stage).stage

    @property
    def shares(self):
        return shares_for(&self.run_, work_of(&self.run_)) if self.run_.count else 1

    def pack(self):
        """Read the weights."""
        cdef Run* run = &self.run_
        cdef Py_ssize_t threads
        if run.count == 0:
            return
        with nogil:
            threads = threads_for_rows(run, work_of(run))
            rnn_parallel(pack_tiles, run, limit if run.teams else threads)

    def run(self):
        """Compute the outputs from the inputs."""
        cdef Run* run = &self.run_
        cdef double work
        if run.count == 0:
            return
        work = work_of(run)
        if work < MOMENT:
            self.forward(work)
        else:
            with nogil:
                self.forward(work)

    cdef void forward(self, double work) noexcept nogil:
        rnn_parallel(forward_share, &self.run_, threads_for_rows(&self.run_, work))
        finish(&self.run_)


cdef class Rule:
    """How an optimizer treats one flat parameter.

    Parameters
    ----------
    capsule : PyCapsule
    keep : list
        Arrays that the rule points into.
    """

    cdef CRule* rule
    cdef readonly object capsule
    cdef object keep

    def __init__(self, capsule, keep):
        self.rule = <CRule*>PyCapsule_GetPointer(capsule, "rnncore.Rule")
        self.capsule = capsule
        self.keep = keep

    def update(self):
        """Update the parameter by its gradient."""
        with nogil:
            self.rule.update(self.rule.plan, 0, self.rule.size)

    def sum_of_squares(self):
        """Return the gradient's sum of squares, in double precision and in a fixed order."""
        return self.rule.sum_of_squares(self.rule.plan)

    def scale(self, double factor):
        """Multiply the gradient by a factor."""
        self.rule.scale(self.rule.plan, factor, 0, self.rule.size)

    def clip(self, double limit):
        """Clip every element of the gradient to [-limit, limit]; NaN stays."""
        self.rule.clip(self.rule.plan, limit, 0, self.rule.size)


cdef class Step:
    """A whole training step in one call: forward, loss, backward, clipping, update.

    Parameters
    ----------
    stages : list of Stage
        Forward order; the last is the loss.
    buffers : list of ndarray, (count, N, width)
        Gradients of the states, zeroed before the backward pass.
    finals : list of ndarray, (count, N, width)
        The final states, which `restore` sets back.
    rules : list of Rule
        One for each flat parameter; `run` zeroes its gradient too.
    settings : ndarray of float64
        The optimizer's settings; ``settings[1]`` counts the updates.
    clip_norm, clip_value : float
        Infinity means that nothing is clipped.

    Attributes
    ----------
    loss : float
        The loss of the latest run.
    norm : float
        The global norm of the latest run's gradients before clipping.
    """

    cdef Run run_
    cdef list keep
    cdef double* settings
    cdef double* value
    cdef Copied* finals
    cdef Py_ssize_t final_count
    cdef readonly double loss, norm

    def __init__(self, stages, buffers, finals, rules, settings, *, clip_norm=INFINITY, clip_value=INFINITY):
        self.keep = [stages, buffers, finals, rules, settings]
        arrays = [rows for array in buffers for rows in array]
        self.run_.count, self.run_.rule_count, self.run_.buffer_count = len(stages), len(rules), len(arrays)
        self.run_.stages = <CStage**>pointers(self.keep, len(stages))
        self.run_.rules = <CRule**>pointers(self.keep, len(rules))
        buffer(self.keep, len(arrays) * sizeof(Buffer), <void**>&self.run_.buffers)
        for i, stage in enumerate(stages):
            self.run_.stages[i] = (<Stage>stage).stage
        for i, rule in enumerate(rules):
            self.run_.rules[i] = (<Rule>rule).rule
        for i, array in enumerate(arrays):
            self.run_.buffers[i] = Buffer(<char*>address(array), array.strides[0])
        self.final_count = len(finals)
        buffer(self.keep, len(finals) * sizeof(Copied), <void**>&self.finals)
        for i, array in enumerate(finals):
            self.finals[i].place, self.finals[i].size = address(array), array.nbytes
            buffer(self.keep, array.nbytes, &self.finals[i].copy)
        self.settings = <double*>address(settings)
        self.value = <double*>address(stages[len(stages) - 1].value)
        self.run_.clip_norm, self.run_.clip_value = clip_norm, clip_value

    def run(self, bint first=True, bint last=True, double factor=1.0):
        """Make one update; if the loss or the norm is not finite, no parameter changes.

        An update from several batches takes one run for each batch.

        Parameters
        ----------
        first : bool
            Zero the parameters' gradients before this batch's are added.
        last : bool
            Update the parameters after this batch.
        factor : float
            Multiply the sum of all batches' gradients by this, in the last run.

        Returns
        -------
        float
            The loss before the update.
        """
        if work_of(&self.run_) < MOMENT:
            self.learn(first, last, factor)
        else:
            with nogil:
                self.learn(first, last, factor)
        return self.loss

    cdef void learn(self, bint first, bint last, double factor) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(self.final_count):
            memcpy(self.finals[i].copy, self.finals[i].place, self.finals[i].size)
        self.gradients(first, factor if last else 1.0)
        if last and isfinite(self.loss) and isfinite(self.norm):
            self.update()

    def restore(self):
        """Set the final states back to what they were before the latest run."""
        cdef Py_ssize_t i
        for i in range(self.final_count):
            memcpy(self.finals[i].place, self.finals[i].copy, self.finals[i].size)

    cdef void gradients(self, bint first, double factor) noexcept nogil:
        cdef Run* run = &self.run_
        cdef double work = work_of(run)
        cdef double squares = 0
        cdef Py_ssize_t* horizon = run.stages[0].rows.horizon
        cdef Py_ssize_t threads = threads_for_rows(run, work)
        cdef Py_ssize_t i, phase
        # Where one thread has run the passes, other threads first have to fetch its results: they need more work.
        run.parts = parts_for(run, work if threads > 1 or run.teams else work / 6)
        run.fresh = first
        rnn_parallel(prepare_tiles, run, run.parts)
        for phase in range(1 if horizon[2] else max(<Py_ssize_t>1, horizon[0])):
            horizon[1] = phase
            rnn_parallel(both_shares, run, threads)
            finish(run)
            accumulate(run, run.parts)
        for i in range(run.rule_count):
            if factor != 1:
                run.rules[i].scale(run.rules[i].plan, factor, 0, run.rules[i].size)
            squares += run.rules[i].sum_of_squares(run.rules[i].plan)
        self.loss = self.value[0]
        self.norm = sqrt(squares)

    cdef void update(self) noexcept nogil:
        cdef Run* run = &self.run_
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t i
        for i in range(run.rule_count):
            size += run.rules[i].size
        run.factor = run.clip_norm / (self.norm + 1e-6)
        self.settings[1] += 1
        rnn_parallel(update_tiles, run, min(run.parts, threads_for(72.0 * <double>size, limit)))


def _default_threads():
    """RNNCORE_NUM_THREADS, else OMP_NUM_THREADS (which process pools set to divide a machine), else usable cores."""
    wanted = os.environ.get("RNNCORE_NUM_THREADS")
    if not wanted:
        shared = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        return max(1, min(int(shared) if shared.isdecimal() else machine.cores(), MOST))
    if not wanted.isdecimal() or not 1 <= int(wanted) <= MOST:
        raise ValueError(f"RNNCORE_NUM_THREADS must be a whole number of 1 ... {MOST}, got {wanted!r}")
    return int(wanted)


usual = _default_threads()
set_num_threads(usual)
