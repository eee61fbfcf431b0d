/* Every program on a start of its own. A ticket is a program. */
struct proceeding {
    struct layouts starts;   /* [count, ...] */
    struct ends ends;        /* [count, ...]: what the starts become */
    const int32_t *programs; /* [count, NODES] */
    int32_t *outcomes;       /* [count, COLUMNS] */
    int32_t count;
    int32_t tickets;
};

void proceed_programs(struct proceeding *all, uint32_t *table)
{
    uint32_t code[NODES * WORDS] = {0}, runs = 0;
    for (int32_t program; (program = taken(&all->tickets)) < all->count;) {
        compile(all->programs + (int64_t)program * NODES, code);
        const struct proceed_result end
            = proceed(code, STARTS(all->starts, program), table, runs++, ENDS(all->ends, program));
        int32_t *row = all->outcomes + (int64_t)program * COLUMNS;
        /* in the order of outcomes.Columns */
        row[0] = end.units, row[1] = end.calls, row[2] = end.actions, row[3] = end.end;
    }
}
