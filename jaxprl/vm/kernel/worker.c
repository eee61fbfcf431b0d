/* What one thread does: it takes tickets until there are none left (tickets.c). */

/* A run, and one that collects the nodes that it comes to. */
static __attribute__((noinline)) struct run_result plain_run(
    const struct layouts *all, int32_t layout, const uint32_t *code, uint32_t *table, uint32_t runs)
{
    return run(code, code, false, LAYOUTS(all), layout, table, runs);
}

static __attribute__((noinline)) struct run_result traced_run(
    const struct layouts *all, int32_t layout, const uint32_t *code, const uint32_t *marks, uint32_t *table,
    uint32_t runs)
{
    return run(code, marks, true, LAYOUTS(all), layout, table, runs);
}

/* Every program on every layout. A ticket is a program. */
struct batch {
    struct layouts layouts;
    const int32_t *programs; /* [count, NODES] */
    int32_t *outcomes;       /* [count, episodes, COLUMNS] */
    int32_t count, episodes;
    int32_t tickets;
};

void run_programs(struct batch *batch, uint32_t *table)
{
    uint32_t code[NODES * WORDS] = {0}, runs = 0;
    for (int32_t program; (program = taken(&batch->tickets)) < batch->count;) {
        compile(batch->programs + (int64_t)program * NODES, code);
        for (int32_t layout = 0; layout < batch->episodes; layout++) {
            const struct run_result end = plain_run(&batch->layouts, layout, code, table, runs++);
            int32_t *row = batch->outcomes + ((int64_t)program * batch->episodes + layout) * COLUMNS;
            /* in the order of outcomes.Columns */
            row[0] = end.units, row[1] = end.calls, row[2] = end.actions, row[3] = end.end;
        }
    }
}

/* The first better neighbour of every search. The first tickets are the parts of the parents' runs, then come the first
   neighbours of all searches, then the second ones, and so on. */
struct question {
    struct layouts layouts;
    const int32_t *weights;  /* [episodes]: score of one unit */
    const int32_t *parents;  /* [searches, NODES] */
    const int32_t *programs; /* [searches, width, NODES] */
    const int32_t *changed;  /* [searches, width, 2] */
    const int32_t *margins;  /* [searches, width] */
    const int32_t *counts;   /* [searches]: neighbours that matter */
    int32_t *units;          /* [searches, episodes]: returns of the parents' runs */
    uint32_t *touched;       /* [searches, episodes, 2]: the nodes that these came to */
    uint32_t *marks;         /* [searches, width]: hashes of the neighbours */
    int32_t *left;           /* [searches]: parts of the parent's runs that are not done, at first `parts` */
    int32_t *score;          /* [searches]: the parent's, at first 0 */
    int32_t *first;          /* [searches]: the first better neighbour so far, at first `width` */
    int32_t *better;         /* [searches, width]: scores of the better neighbours */
    int32_t *crowded;        /* [searches]: whether the memory became full in a run, at first 0 */
    int32_t episodes, most;  /* `most` is the score of a return of 1 on one layout */
    int32_t searches, width, parts;
    int32_t tickets;
};

static void run_part(struct question *question, int32_t search, int32_t part, uint32_t *table, uint32_t *runs)
{
    const int32_t episodes = question->episodes, width = question->width, parts = question->parts;
    const int32_t *programs = question->programs + (int64_t)search * width * NODES;
    const int32_t begin = (int64_t)episodes * part / parts, end = (int64_t)episodes * (part + 1) / parts;
    uint32_t code[NODES * WORDS], nodes[NODES * 2];
    int32_t score = 0;
    for (int32_t i = (int64_t)width * part / parts; i < (int64_t)width * (part + 1) / parts; i++)
        question->marks[search * width + i] = mark(programs + (int64_t)i * NODES).mark;
    traced_instructions(question->parents + (int64_t)search * NODES, code, nodes);
    for (int32_t layout = begin; layout < end; layout++) {
        const struct run_result done = traced_run(&question->layouts, layout, code, nodes, table, (*runs)++);
        const int32_t row = search * episodes + layout;
        question->units[row] = done.units;
        question->touched[2 * row] = done.visited_0, question->touched[2 * row + 1] = done.visited_1;
        score += done.units * question->weights[layout];
        if (done.end == RUNNING)
            __atomic_store_n(&question->crowded[search], 1, __ATOMIC_RELAXED);
    }
    __atomic_fetch_add(&question->score[search], score, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&question->left[search], 1, __ATOMIC_RELEASE);
}

/* Whether a neighbour need not be run, since an earlier one is better, say. */
static bool is_settled(const struct question *question, int32_t search, int32_t index)
{
    return index > __atomic_load_n(&question->first[search], __ATOMIC_RELAXED)
        || __atomic_load_n(&question->crowded[search], __ATOMIC_RELAXED);
}

static void try_neighbour(struct question *question, int32_t search, int32_t index, uint32_t *table, uint32_t *runs)
{
    const int32_t episodes = question->episodes, most = question->most, *weights = question->weights;
    const int64_t width = question->width, own = search * width;
    const int32_t *units = question->units + (int64_t)search * episodes, *changed = question->changed + 2 * (own + index);
    const uint32_t *touched = question->touched + 2 * (int64_t)search * episodes;
    const int32_t *parent = question->parents + (int64_t)search * NODES, *programs = question->programs + own * NODES;
    const int32_t least = score_to_beat(question->score[search], question->margins[own + index]).least;
    uint32_t code[NODES * WORDS] = {0};

    int32_t highest = highest_score(units, touched, changed, weights, most, episodes).highest;
    if (highest <= least || is_known(parent, programs, question->marks + own, question->margins + own, index).is_known)
        return;
    compile(programs + (int64_t)index * NODES, code);
    for (int32_t place = 0;; place++) {
        place = next_place(units, touched, changed, weights, most, episodes, place).place;
        if (place == 2 * episodes)
            break;
        const int32_t layout = layout_at(place, episodes).layout;
        const struct run_result done = plain_run(&question->layouts, layout, code, table, (*runs)++);
        if (done.end == RUNNING) {
            __atomic_store_n(&question->crowded[search], 1, __ATOMIC_RELAXED);
            return;
        }
        highest += done.units * weights[layout] - most;
        if (highest <= least || is_settled(question, search, index))
            return;
    }
    question->better[own + index] = highest;
    int32_t first = __atomic_load_n(&question->first[search], __ATOMIC_RELAXED);
    while (index < first && !__atomic_compare_exchange_n(
               &question->first[search], &first, index, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void first_better(struct question *question, uint32_t *table)
{
    const int32_t searches = question->searches, parts = question->parts;
    const int64_t tickets = (int64_t)searches * (parts + question->width);
    uint32_t runs = 0;
    for (int32_t ticket; (ticket = taken(&question->tickets)) < tickets;) {
        const int32_t search = ticket % searches, turn = ticket / searches;
        if (turn < parts) {
            run_part(question, search, turn, table, &runs);
            continue;
        }
        const int32_t index = turn - parts;
        if (index >= question->counts[search] || is_settled(question, search, index))
            continue;
        while (__atomic_load_n(&question->left[search], __ATOMIC_ACQUIRE) > 0)
            sched_yield(); /* another thread is about to finish the parent */
        try_neighbour(question, search, index, table, &runs);
    }
}
