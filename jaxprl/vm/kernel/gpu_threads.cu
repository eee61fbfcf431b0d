/* What one thread does: it takes tickets until there are none left. The functions that it calls stand above, translated
   from array code; before them stand the layouts and the sizes: NODES of a program, WORDS of an
   instruction, SLOTS of a memory of WHILE, COLUMNS of an outcome. */

static inline int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
static inline int threads() { return gridDim.x * blockDim.x; }

/* A number that other threads change. */
static inline int seen(const int *place) { return *(const volatile int *)place; }

/* The instructions of a program. Its nodes come first, and behind them there are zeros. */
static inline void compile(const int32_t *nodes, uint32_t *code, uint8_t *scratch)
{
    if (nodes[SHORT] == 0)
        short_instructions(nodes, code, scratch);
    else
        instructions(nodes, code, scratch);
}

/* Runs. The first ticket of a thread is its number. The others come from a counter, which begins behind these. A job
   says which runs there are, and what becomes of them; runs are numbered from `earlier` + 1 on, so that no thread has
   to clear its memory. Every LOOK turns a thread looks whether its run is still of use. Threads of a warp that run in
   step look in the same turn, so that they wait for the memory only once.

   If BALLOT is not 0, a thread delays its test until BALLOT threads of its warp have one to do, or all that have a
   run. No thread then leaves the loop before its whole warp is done. */
enum : unsigned { WARP = 0xFFFFFFFF };

template <class Job> static inline void work(Job &job, const struct layouts &all, int *tickets, uint32_t *tables,
                                             const uint32_t *earlier)
{
    uint32_t *table = tables + (int64_t)thread() * (SLOTS * SLOT_WORDS);
    ARRAYS_OF_RUN
    struct run now;
    uint32_t number = 0;
    bool is_over = false; /* whether there are no tickets left */
    now.goes_on = false;
    for (int turn = 0;; turn++) {
        if (BALLOT > 0 && __all_sync(WARP, is_over))
            break;
        const bool is_new = !now.goes_on && !is_over;
        if (is_new) {
            const int ticket = turn == 0 ? thread() : atomicAdd(tickets, 1);
            is_over = ticket >= job.count();
            if (is_over && BALLOT == 0)
                break;
            if (!is_over) {
                job.takes(ticket);
                number = *earlier + (uint32_t)ticket + 1u;
            }
        }
        bool has_run = !is_over;
        if (has_run && (is_new || turn % LOOK == 0) && job.is_settled())
            has_run = now.goes_on = false;
        if (has_run && is_new)
            now = start(job.code(), LAYOUTS(all), job.layout ARRAYS);
        bool may_test = true;
        if (BALLOT > 0) {
            const bool waits = has_run && now.chain == 0u;
            const unsigned running = __ballot_sync(WARP, has_run), waiting = __ballot_sync(WARP, waits);
            may_test = waits && (waiting == running || __popc(waiting) >= BALLOT);
        }
        if (!has_run)
            continue;
        now = step(job.code(), job.nodes(), job.is_traced(), may_test, LAYOUTS(all), job.layout, number, CARRIED(now),
                   table);
        if (job.is_traced())
            job.visits(now.visited_0, now.visited_1);
        if (!now.goes_on)
            job.ends(now ARRAYS);
    }
}

extern "C" __global__ void compile_programs(const int *sizes, const int32_t *programs, uint32_t *codes, int *tickets,
                                            uint8_t *scratch)
{
    const int count = sizes[0], workers = sizes[2];
    if (thread() == 0)
        *tickets = workers;
    uint8_t *own = scratch + (int64_t)thread() * SCRATCH;
    for (int program = thread(); program < count; program += threads())
        compile(programs + (int64_t)program * NODES, codes + (int64_t)program * (NODES * WORDS), own);
}
