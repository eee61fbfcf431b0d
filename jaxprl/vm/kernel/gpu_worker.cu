/* Every program on every layout. */
struct Batch {
    const uint32_t *codes; /* [programs, NODES, WORDS] */
    int32_t *outcomes;     /* [programs, episodes, COLUMNS] */
    const int *sizes;

    int program, layout;

    int episodes() const { return sizes[1]; }
    int count() const { return sizes[0] * sizes[1]; }
    const uint32_t *code() const { return codes + (int64_t)program * (NODES * WORDS); }
    const uint32_t *nodes() const { return codes; }
    bool is_traced() const { return false; }
    bool is_settled() const { return false; }
    void visits(uint32_t, uint32_t) const {}

    void takes(int ticket) { program = ticket / episodes(), layout = ticket % episodes(); }

    void ends(const struct run &now ARRAY_PARAMS)
    {
        int32_t *out = outcomes + ((int64_t)program * episodes() + layout) * COLUMNS;
        /* in the order of outcomes.Columns */
        out[0] = now.units, out[1] = now.calls, out[2] = now.calls - now.perceptions, out[3] = now.end;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
run_programs(LEAVES, const int *sizes, const uint32_t *codes, const uint32_t *earlier, int *, uint32_t *,
             int *tickets, uint32_t *tables, int32_t *outcomes)
{
    const struct layouts all = {ALL_LEAVES};
    Batch job;
    job.codes = codes, job.outcomes = outcomes, job.sizes = sizes;
    work(job, all, tickets, tables, earlier);
}

/* The first better neighbour of every search. Programs are numbered by `row`: first the parents of all searches, then
   the first neighbours of all searches, and so on. Tickets go through the rows in this order. No run waits for
   another one: a neighbour's run is given up, or takes over its parent's return, when the parent's runs have come far
   enough for that. Only a neighbour whose runs have all ended can be the first better one, so the answer does not
   depend on the order. */
enum { UNKNOWN = -2147483647 - 1 };

struct Shared {
    int32_t *highest;  /* [1 + width, searches]: the highest score still possible; UNKNOWN: it does not matter */
    int32_t *left;     /* [1 + width, searches]: runs that have not ended */
    int32_t *first;    /* [searches]: the first better neighbour so far, at first `width` */
    int32_t *crowded;  /* [searches]: whether the memory became full in a run */
    int32_t *units;    /* [searches, episodes]: returns of the parents' runs, at first UNKNOWN */
    uint32_t *touched; /* [searches, episodes, MARKS]: the nodes that these came to */
};

struct Question {
    struct Shared shared;
    const uint32_t *codes;   /* [1 + width, searches, NODES, WORDS] */
    const uint32_t *traces;  /* [searches, NODES, MARKS]: the nodes of the instructions of the parents */
    const int32_t *weights;  /* [episodes]: score of one unit */
    const int32_t *changed;  /* [searches, width, 2] */
    const int32_t *margins;  /* [searches, width] */
    const int *sizes; /* these are read anew where they are needed, which takes fewer registers than to keep them */

    int row, layout; /* row: of the run's program in `highest` and `left` */

    int episodes() const { return sizes[0]; }
    int searches() const { return sizes[1]; }
    int width() const { return sizes[2]; }
    int most() const { return sizes[3]; }
    int count() const { return (1 + width()) * searches() * episodes(); }

    int search() const { return row % searches(); }
    int index() const { return row / searches() - 1; }
    int parent() const { return search() * episodes() + layout; } /* the parent's run */
    int64_t neighbour() const { return (int64_t)search() * width() + index(); }

    const uint32_t *code() const { return codes + (int64_t)row * (NODES * WORDS); }
    bool is_traced() const { return row < searches(); }
    uint32_t *touched() const { return shared.touched + (int64_t)parent() * MARKS; }
    void visits(uint32_t low, uint32_t high) const { touched()[0] |= low, touched()[1] |= high; }
    const uint32_t *nodes() const { return traces + (int64_t)(is_traced() ? row : 0) * (NODES * MARKS); }

    static int *place(int32_t *numbers, int index) { return (int *)numbers + index; }

    void takes(int ticket)
    {
        row = ticket / episodes(), layout = ticket % episodes();
        if (is_traced())
            touched()[0] = touched()[1] = 0;
    }

    /* The score that a neighbour has to beat; UNKNOWN while that is not known. */
    int least() const
    {
        const int search = this->search();
        if (seen(place(shared.left, search)) > 0)
            return UNKNOWN;
        __threadfence();
        const int score = seen(place(shared.highest, search));
        return (int)score_to_beat(score, margins[neighbour()]).least;
    }

    bool is_settled()
    {
        if (seen(place(shared.highest, row)) == UNKNOWN || seen(place(shared.crowded, search())))
            return true;
        if (is_traced())
            return false;
        if (index() > seen(place(shared.first, search())))
            return true;
        const int lowest = least();
        if (lowest != UNKNOWN && seen(place(shared.highest, row)) <= lowest)
            return true;
        const int units = seen(place(shared.units, parent()));
        if (units == UNKNOWN)
            return false;
        __threadfence();
        if (differs(touched(), changed + 2 * neighbour()).differs)
            return false;
        hand_in(units);
        return true;
    }

    void ends(const struct run &now ARRAY_PARAMS)
    {
        if (now.end == RUNNING) { /* its memory is full */
            *place(shared.crowded, search()) = 1;
            return;
        }
        if (is_traced()) {
            __threadfence();
            *(volatile int *)place(shared.units, parent()) = (int)now.units;
        }
        hand_in((int)now.units);
    }

    void hand_in(int units)
    {
        atomicAdd(place(shared.highest, row), units * (int)weights[layout] - most());
        __threadfence();
        const bool is_last = atomicAdd(place(shared.left, row), -1) == 1;
        if (!is_last || is_traced())
            return;
        __threadfence();
        const int lowest = least();
        if (lowest != UNKNOWN && seen(place(shared.highest, row)) > lowest)
            atomicMin(place(shared.first, search()), index());
    }
};

/* Prepares a question: makes the instructions and hashes of its programs, and sets what runs share to its first values.
   Each thread takes one program after the other. */
extern "C" __global__ void prepare_question(const int *sizes, const int32_t *parents, const int32_t *programs,
                                            const int32_t *counts, uint32_t *codes, uint32_t *traces, uint32_t *marks,
                                            int32_t *highest, int32_t *left, int32_t *first, int32_t *crowded,
                                            int32_t *units, int *tickets, uint8_t *scratch)
{
    const int episodes = sizes[0], searches = sizes[1], width = sizes[2], most = sizes[3], workers = sizes[4];
    uint8_t *own = scratch + (int64_t)thread() * SCRATCH;
    if (thread() == 0)
        *tickets = workers;
    for (int row = thread(); row < (1 + width) * searches; row += threads()) {
        const int search = row % searches, index = row / searches - 1;
        uint32_t *code = codes + (int64_t)row * (NODES * WORDS);
        left[row] = episodes;
        highest[row] = index < (int)counts[search] ? episodes * most : UNKNOWN;
        if (index >= (int)counts[search])
            continue; /* only room, or an idle search */
        if (index >= 0) {
            const int32_t *nodes = programs + ((int64_t)search * width + index) * NODES;
            marks[search * width + index] = mark(nodes).mark;
            compile(nodes, code, own);
            continue;
        }
        traced_instructions(parents + (int64_t)search * NODES, code, traces + (int64_t)search * (NODES * MARKS), own);
        first[search] = width, crowded[search] = 0;
        for (int i = 0; i < episodes; i++)
            units[search * episodes + i] = UNKNOWN;
    }
}

/* Leaves out neighbours that equal their parent or an earlier one. */
extern "C" __global__ void leave_out_known(const int *sizes, const int32_t *parents, const int32_t *programs,
                                           const int32_t *margins, const uint32_t *marks, int32_t *,
                                           int32_t *highest)
{
    const int searches = sizes[1], width = sizes[2];
    for (int row = searches + thread(); row < (1 + width) * searches; row += threads()) {
        const int search = row % searches, index = row / searches - 1;
        const int64_t own = (int64_t)search * width;
        if (highest[row] != UNKNOWN
            && is_known(parents + (int64_t)search * NODES, programs + own * NODES, marks + own, margins + own, index)
                   .is_known)
            highest[row] = UNKNOWN;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
first_better(LEAVES, const int *sizes, const int32_t *weights, const uint32_t *codes, const uint32_t *traces,
             const int32_t *changed, const int32_t *margins, const uint32_t *earlier, int32_t *, int32_t *, int32_t *,
             int32_t *, int32_t *, int *, uint32_t *, int32_t *highest, int32_t *left, int32_t *first,
             int32_t *crowded, int32_t *units, int *tickets, uint32_t *tables, uint32_t *touched)
{
    const struct layouts all = {ALL_LEAVES};
    Question job;
    job.shared = {highest, left, first, crowded, units, touched};
    job.codes = codes, job.traces = traces, job.weights = weights, job.changed = changed, job.margins = margins;
    job.sizes = sizes;
    work(job, all, tickets, tables, earlier);
}
