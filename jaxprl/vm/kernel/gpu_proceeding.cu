/* Every program on a start of its own. */
struct Proceeding {
    const uint32_t *codes; /* [programs, NODES, WORDS] */
    int32_t *outcomes;     /* [programs, COLUMNS] */
    const struct layouts *starts;
    struct ends places; /* what the starts become */
    const int *sizes;

    int layout; /* of the run, and its program */

    int count() const { return sizes[0]; }
    const uint32_t *code() const { return codes + (int64_t)layout * (NODES * WORDS); }
    const uint32_t *nodes() const { return codes; }
    bool is_traced() const { return false; }
    bool is_settled() const { return false; }
    void visits(uint32_t, uint32_t) const {}

    void takes(int ticket) { layout = ticket; }

    void ends(const struct run &now ARRAY_PARAMS)
    {
        int32_t *out = outcomes + (int64_t)layout * COLUMNS;
        /* in the order of outcomes.Columns */
        out[0] = now.units, out[1] = now.calls, out[2] = now.calls - now.perceptions, out[3] = now.end;
        KEEP((*starts), places, (int64_t)layout, now)
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
proceed_programs(LEAVES, const int *sizes, const uint32_t *codes, const uint32_t *earlier, int *, uint32_t *,
                 int *tickets, uint32_t *tables, int32_t *outcomes, ENDS)
{
    const struct layouts all = {ALL_LEAVES};
    Proceeding job;
    job.codes = codes, job.outcomes = outcomes, job.sizes = sizes, job.starts = &all, job.places = {ALL_ENDS};
    work(job, all, tickets, tables, earlier);
}
